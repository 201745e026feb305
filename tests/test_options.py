from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from workbench import options
from workbench.collectives import COLLECTIVES
from workbench.comm.network import Device, Network
from workbench.data import DATA
from workbench.job import Job
from workbench.models import MODELS
from workbench.options import Options, entry, name_in, option, options_of, unknown_name
from workbench.strategies import STRATEGIES, Gossip
from workbench.wires import WIRES

TABLES: dict[str, Any] = {"collective": COLLECTIVES, "wire": WIRES, "strategy": STRATEGIES, "model": MODELS, "data": DATA}
ENTRIES = [pytest.param(cls, id=f"{what}-{name}") for what, table in TABLES.items() for name, cls in table.items()]
VALUES = [*ENTRIES, pytest.param(Job, id="job"), pytest.param(Network, id="network"), pytest.param(Device, id="device")]


@dataclass(frozen=True)
class Circle(Options):
    radius: float = option(1.0, above=0, maximum=10, unit="m", help="size")


@dataclass(frozen=True)
class Square(Options):
    side: int = option(1, minimum=1, help="size")


SHAPES = {"circle": Circle, "square": Square}


@dataclass(frozen=True)
class Drawing(Options):
    shape: Options = option(Circle(), table=SHAPES, help="what is drawn")
    frame: Options | None = option(None, table=SHAPES, help="what is drawn around it")
    holes: tuple[Options, ...] = option((), table=SHAPES, help="what is left out")
    count: int | None = option(None, minimum=1, maximum=3, help="how often")
    colour: str = option("red", choices=("red", "blue"), help="colour")
    filled: bool = option(False, help="whether it is filled")
    labels: dict[str, Any] = option({}, help="texts")
    parts: tuple[int, ...] = option((1,), help="parts")
    share: float = option(0.5, minimum=0, help="share")


@pytest.mark.parametrize("cls", VALUES)
def test_every_value_can_be_made_by_its_defaults_and_json_gives_it_back(cls: type[Options]) -> None:
    value = cls()
    assert cls.from_json(json.loads(json.dumps(value.to_json()))) == value


@pytest.mark.parametrize("cls", VALUES)
def test_every_option_explains_itself(cls: type[Options]) -> None:
    for described in options_of(cls):
        assert described.help
        assert "\n" not in described.help
        assert not described.help.endswith(".")


@pytest.mark.parametrize("cls", VALUES)
def test_every_value_is_documented_and_frozen(cls: type[Options]) -> None:
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # what a dataclass writes itself when there is none
    for described in options_of(cls):
        with pytest.raises(AttributeError):
            setattr(cls(), described.name, described.default)


@pytest.mark.parametrize("cls", VALUES)
def test_every_bound_is_kept(cls: type[Options]) -> None:
    for described in options_of(cls):
        beyond = [described.minimum - 1] if described.minimum is not None else []
        beyond += [described.maximum + 1] if described.maximum is not None else []
        beyond += [described.above] if described.above is not None else []
        for given in beyond:
            with pytest.raises(ValueError, match=f"{cls.__name__}.*{described.name} must be .*, got "):
                cls(**{described.name: given})


@pytest.mark.parametrize("cls", VALUES)
def test_every_unknown_field_is_named(cls: type[Options]) -> None:
    with pytest.raises(ValueError, match=f"{cls.__name__} has no field 'nonsense'"):
        cls.from_json({"nonsense": 1})


@pytest.mark.parametrize(("what", "table"), TABLES.items())
def test_names_stand_for_entries(what: str, table: Any) -> None:
    for name, cls in table.items():
        value = entry(table, what, name)
        assert type(value) is cls
        assert name_in(table, value) == name
        assert entry(table, what, {"kind": name}) == entry(table, what, value) == value
    with pytest.raises(ValueError, match=f"unknown {what} 'nonsense'"):
        entry(table, what, "nonsense")
    with pytest.raises(ValueError, match=f"{what} must be one of "):
        entry(table, what, 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"shape": "circel"}, "unknown shape 'circel'; did you mean 'circle'"),
        ({"shape": {"kind": "circle", "radius": 0}}, r"Circle\(radius=0\): radius must be a number in \(0, 10\], got 0"),
        ({"shape": {"radius": 1}}, r"shape={'radius': 1}: \"kind\" is missing.*one of 'circle', 'square'"),
        ({"shape": None}, r"Drawing\(shape=None\): shape must be one of 'circle', 'square' or a value of one of their classes, got None"),
        ({"shape": Circle}, r"shape=Circle: shape must be a value, got the class; did you mean Circle\(\)\?"),
        ({"shape": dict}, "shape must be one of 'circle', 'square' or a value"),
        ({"cuont": 1}, r"Drawing has no option 'cuont'; did you mean 'count'\? \(known: shape, frame, holes, count, "),
        ({"count": 4}, r"Drawing\(count=4\): count must be a whole number in \[1, 3\] or None, got 4"),
        ({"count": True}, "whole number"),
        ({"count": "2"}, "whole number"),
        ({"count": 1.5}, "whole number"),
        ({"colour": "green"}, "colour must be one of 'red', 'blue', got 'green'"),
        ({"filled": 1}, "filled must be True or False, got 1"),
        ({"labels": []}, "labels must be a dict"),
        ({"share": float("nan")}, "share must be a number of at least 0"),
        ({"share": None}, "share must be a number"),
        ({"frame": 3}, "frame must be one of 'circle', 'square' or a value of one of their classes, or None, got 3"),
        ({"frame": "squar"}, "unknown frame 'squar'; did you mean 'square'"),
        ({"holes": ["squar"]}, r"unknown holes\[0\] 'squar'; did you mean 'square'"),
        ({"holes": [Circle(), None]}, r"holes\[1\] must be one of 'circle', 'square' or a value of one of their classes, got None"),
        ({"holes": [{"kind": "square", "side": 0}]}, r"Square\(side=0\): side must be a whole number of at least 1, got 0"),
        ({"holes": None}, r"Drawing\(holes=None\): holes must be a tuple or list, each one of 'circle', 'square' or a value of one of their classes"),
        ({"holes": Square()}, r"holes must be a tuple or list, .*, got Square\(side=1\); a single one is given as \(Square\(side=1\),\)"),
        ({"holes": "square"}, r"a single one is given as \('square',\)"),
    ],
)
def test_wrong_choices_say_field_given_and_allowed(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Drawing(**given)


def test_the_example_of_the_docstring_says_the_truth() -> None:
    examples = re.findall(r"^    (\w+\(.*\)) +# ValueError: (.*)$", options.__doc__ or "", flags=re.M)
    assert len(examples) == 2
    for call, words in examples:
        with pytest.raises(ValueError, match=f"^{re.escape(words.partition('(known')[0])}"):
            eval(call, {"Gossip": Gossip})


def test_values_are_copied_and_pickled_like_others() -> None:
    drawing = Drawing(count=2)
    assert copy.deepcopy(drawing) == pickle.loads(pickle.dumps(drawing)) == drawing
    assert str(inspect.signature(Square)) == "(side: 'int' = 1) -> None"


def test_what_is_given_becomes_the_plain_type() -> None:
    drawing = Drawing(count=np.int64(2), share=1, parts=[1, 2], shape="square")
    assert (type(drawing.count), type(drawing.share), drawing.parts, drawing.shape) == (int, float, (1, 2), Square())
    assert Drawing(count=2.0).count == 2


def test_defaults_that_can_change_are_not_shared() -> None:
    Drawing().labels["a"] = 1
    assert Drawing().labels == {}


def test_replace_checks_like_a_new_value() -> None:
    assert Drawing().replace(count=2) == Drawing(count=2)
    with pytest.raises(ValueError, match="Drawing has no option 'cuont'; did you mean 'count'"):
        Drawing().replace(cuont=2)
    with pytest.raises(ValueError, match="count must be"):
        Drawing().replace(count=0)


def test_options_know_their_type_for_a_form() -> None:
    kinds = {o.name: (o.kind, o.optional) for o in options_of(Drawing)}
    assert kinds == {
        "shape": (Options, False),
        "frame": (Options, True),
        "holes": (tuple, False),
        "count": (int, True),
        "colour": (str, False),
        "filled": (bool, False),
        "labels": (dict, False),
        "parts": (tuple, False),
        "share": (float, False),
    }


def test_an_optional_entry_and_several_of_them_become_json_and_back() -> None:
    drawing = Drawing(frame={"kind": "square", "side": 3}, holes=["circle", Square(side=2), {"kind": "circle", "radius": 2}])
    assert (drawing.frame, drawing.holes) == (Square(side=3), (Circle(), Square(side=2), Circle(radius=2.0)))
    told = json.loads(json.dumps(drawing.to_json()))
    assert told["frame"] == {"kind": "square", "side": 3}
    assert told["holes"] == [{"kind": "circle", "radius": 1.0}, {"kind": "square", "side": 2}, {"kind": "circle", "radius": 2.0}]
    assert Drawing.from_json(told) == drawing
    none = Drawing().to_json()
    assert (none["frame"], none["holes"]) == (None, [])
    assert Drawing.from_json(none) == Drawing()
    assert hash(drawing.holes) == hash((Circle(), Square(side=2), Circle(radius=2.0)))


def test_a_value_of_no_table_is_named() -> None:
    with pytest.raises(ValueError, match="Drawing is in no table"):
        name_in(SHAPES, Drawing())


def test_unknown_name_lists_what_is_known() -> None:
    assert unknown_name("wire", "floot32", ["float32", "int8"]) == "unknown wire 'floot32'; did you mean 'float32'? (known: float32, int8)"
    assert "did you mean 'learning_rate'?" in unknown_name("option", "lr", ["seed", "learning_rate"])
    assert unknown_name("wire", "zzz", ["int8"], of="Ring") == "Ring has no wire 'zzz' (known: int8)"


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("batch_size", 10**400, "batch_size must be a whole number of at least 1 that fits in 64 bits, got 1000"),
        ("batch_size", 10**300, "fits in 64 bits"),
        ("batch_size", 2**63, "fits in 64 bits"),
        ("batch_size", 10**5000, "got int that is too long to show"),
        ("learning_rate", 10**400, "learning_rate must be a number of at least 0 that fits in 64 bits"),
        ("learning_rate", np.array([0.1, 0.2]), r"learning_rate must be a number of at least 0, got array\(\[0.1, 0.2\]\)"),
        ("learning_rate", np.array([0.1]), "learning_rate must be a number of at least 0"),
    ],
    ids=range(7),
)
def test_numbers_that_no_machine_holds_are_refused(name: str, given: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Job(**{name: given})
    assert len(str(caught.value)) < 1000
