"""Forms come from the options of a class: bounds, units, help and errors are those of the class, in its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import ipywidgets
import pytest

from workbench.faults import Slow
from workbench.job import Job
from workbench.models import MODELS
from workbench.options import Options, option, options_of
from workbench.strategies import STRATEGIES
from workbench_widgets.fields import Choice, Flag, Number, Text, limits
from workbench_widgets.form import NONE, OTHER, Entry, Form, Named, field_for


@final
@dataclass(frozen=True)
class Small(Options):
    """A little thing."""

    size: int = option(4, minimum=1, maximum=9, unit="units", help="how large")


@final
@dataclass(frozen=True)
class Big(Options):
    """A larger thing. With a second sentence."""

    share: float = option(0.5, above=0, maximum=1, step=0.1, help="how much")


KINDS = {"small": Small, "big": Big}


@final
@dataclass(frozen=True)
class Sample(Options):
    """One of each."""

    count: int = option(3, minimum=1, unit="steps", help="a number")
    rate: float = option(0.1, minimum=0, step=0.01, help="a real number")
    limit: int | None = option(None, minimum=1, help="may be left out")
    yes: bool = option(True, help="a flag")
    how: str = option("pull", choices=("pull", "push"), help="one of two")
    name: str = option("x", help="a word")
    widths: tuple[int, ...] = option((64,), help="some numbers")
    more: dict[str, Any] = option({}, help="anything")
    thing: Options = option(Small(), table=KINDS, help="a nested one")
    maybe: Options | None = option(None, table=KINDS, help="one or none")
    things: tuple[Options, ...] = option((), table=KINDS, help="any number of them")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how == "push" and self.count > 5:
            raise ValueError("a push of more than 5 does not fit")


def test_the_defaults_give_the_value_of_the_class() -> None:
    assert Form(Sample).value() == Sample()


@pytest.mark.parametrize("cls", [Job, *STRATEGIES.values(), *MODELS.values()])
def test_every_class_of_the_workbench_has_a_form_that_gives_its_default(cls: type[Options]) -> None:
    form = Form(cls)
    assert form.value() == cls()
    assert form.check() == ""


def test_each_kind_has_its_row() -> None:
    kinds = {described.name: type(field_for(described)) for described in options_of(Sample)}
    assert kinds == {
        "count": Number, "rate": Number, "limit": Text, "yes": Flag, "how": Choice, "name": Text, "widths": Text, "more": Text, "thing": Entry,
        "maybe": Entry, "things": Text,
    }  # fmt: skip


def test_unit_bounds_and_help_can_be_seen() -> None:
    form = Form(Sample)
    count = form.fields["count"]
    assert count.control.description == "count"
    assert count.control.tooltip == "a number (steps, ≥ 1)"
    assert "steps, ≥ 1" in count.root.children[0].children[1].value
    assert count.root.children[1].layout.display == "none"
    form.explain(True)
    assert "a number" in count.root.children[1].value
    assert count.root.children[1].layout.display is None
    form.explain(False)
    assert count.root.children[1].layout.display == "none"


def test_limits_in_a_few_characters() -> None:
    words = {described.name: limits(described) for described in (*options_of(Sample), *options_of(Small), *options_of(Big))}
    assert words == {
        "count": "steps, ≥ 1", "rate": "≥ 0", "limit": "≥ 1", "yes": "", "how": "", "name": "", "widths": "", "more": "", "thing": "",
        "maybe": "", "things": "",
        "size": "units, 1 to 9", "share": "> 0, ≤ 1",
    }  # fmt: skip


def test_what_is_out_of_bounds_stays_and_is_said_in_the_words_of_the_class() -> None:
    form = Form(Sample)
    field = form.fields["count"]
    field.control.value = 0
    words = "Sample(count=0): count must be a whole number of at least 1, got 0"
    assert field.control.value == 0
    assert field.error == words
    assert f'role="alert">{words}' in field.root.children[1].value
    assert form.check() == words
    with pytest.raises(ValueError, match="count must be a whole number of at least 1, got 0"):
        form.value()
    field.control.value = 2
    assert field.error == ""
    assert form.check() == ""


@pytest.mark.parametrize(
    ("name", "typed", "words"),
    [
        ("limit", "0", "Sample(limit=0): limit must be a whole number of at least 1 or None, got 0"),
        ("limit", "many", "limit must be a whole number, or nothing, got 'many'"),
        ("widths", "8, x", "widths must be numbers separated by commas, got '8, x'"),
        ("more", "{", "more must be a JSON object, like {\"name\": 1}, got '{'"),
        ("more", "[1]", "Sample(more=[1]): more must be a dict, got [1]"),
        ("things", "small", 'things must be a JSON list, like [{"kind": "small"}], got \'small\''),
        (
            "things",
            '{"kind": "big"}',
            "Sample(things={'kind': 'big'}): things must be a tuple or list, each one of 'small', 'big' or a value of one of their classes, "
            "got {'kind': 'big'}; a single one is given as ({'kind': 'big'},)",
        ),
    ],
)
def test_text_that_cannot_be_read(name: str, typed: str, words: str) -> None:
    form = Form(Sample)
    form.fields[name].control.value = typed
    assert form.fields[name].error == words


def test_text_that_can_be_read() -> None:
    form = Form(Sample)
    for name, typed in {"limit": " 7 ", "widths": "(8, 16)", "more": '{"a": [1]}', "name": "long name"}.items():
        form.fields[name].control.value = typed
    assert form.value() == Sample(limit=7, widths=(8, 16), more={"a": [1]}, name="long name")
    for name in ("limit", "widths", "more"):
        form.fields[name].control.value = ""
    assert form.value() == Sample(limit=None, widths=(), more={}, name="long name")


def test_a_wire_that_the_collective_cannot_take_is_marked() -> None:
    form = Form(STRATEGIES["synchronous"])
    form.fields["collective"].control.value = "native"
    form.fields["wire"].control.value = "top-k"
    assert "collective must be Ring()" in form.fields["wire"].error
    assert form.problem.value == ""


def test_an_error_that_names_no_row_stands_below_the_form() -> None:
    form = Form(Sample)
    form.fields["count"].control.value = 6
    form.fields["how"].control.value = "push"
    assert "a push of more than 5 does not fit" in form.problem.value
    assert not any(field.error for field in form.fields.values())
    form.fields["count"].control.value = 5
    assert form.problem.layout.display == "none"


def test_a_further_check_may_refuse_too() -> None:
    form = Form(Sample)

    def refuse(value: Sample) -> None:
        raise ValueError(f"Sample(rate={value.rate}): too much for these ranks")

    form.also = refuse
    assert form.check() == "Sample(rate=0.1): too much for these ranks"
    assert form.fields["rate"].error == form.check()


def test_a_table_is_a_drop_down_with_the_form_of_what_is_chosen() -> None:
    form = Form(Sample)
    thing = form.fields["thing"]
    assert isinstance(thing, Entry)
    assert thing.control.options == ("small", "big")
    thing.form.fields["size"].control.value = 7
    assert form.value().thing == Small(size=7)
    thing.control.value = "big"
    assert list(thing.form.fields) == ["share"]
    assert thing._place.children == (thing.form.root,)
    assert form.value().thing == Big()
    thing.control.value = "small"
    assert form.value().thing == Small(size=7)


def test_an_entry_may_be_none_where_the_class_says_so() -> None:
    form = Form(Sample)
    maybe = form.fields["maybe"]
    assert maybe.control.options == (NONE, "small", "big")
    assert maybe.control.value == NONE
    assert maybe._place.children == ()
    maybe.control.value = "big"
    maybe.form.fields["share"].control.value = 0.25
    assert form.value().maybe == Big(share=0.25)
    form.show(Sample(maybe=None))
    assert form.value().maybe is None
    form.show(Sample(maybe=Small(size=2)))
    assert form.value().maybe == Small(size=2)


def test_several_entries_are_a_json_list() -> None:
    form = Form(Sample)
    things = form.fields["things"]
    assert things.control.value == ""
    things.control.value = '["big", {"kind": "small", "size": 2}]'
    assert form.value().things == (Big(), Small(size=2))
    value = Sample(things=(Small(size=3), Big()))
    form.show(value)
    assert things.control.value == '[{"kind": "small", "size": 3}, {"kind": "big", "share": 0.5}]'
    assert form.value() == value


def test_an_error_in_a_nested_form_is_shown_there_and_only_there() -> None:
    form = Form(Sample)
    thing = form.fields["thing"]
    calls: list[str] = []
    form.watch(lambda: calls.append(form.check()))
    thing.form.fields["size"].control.value = 10
    words = "Small(size=10): size must be a whole number in [1, 9], got 10"
    assert thing.form.fields["size"].error == words
    assert thing.error == ""
    assert form.problem.layout.display == "none"
    assert calls == [words]


def test_the_help_of_a_drop_down_says_what_is_chosen() -> None:
    form = Form(Sample)
    form.explain(True)
    thing = form.fields["thing"]
    assert "a nested one. A little thing." in thing.root.children[1].value
    thing.control.value = "big"
    assert "a nested one. A larger thing. With a second sentence." in thing.root.children[1].value


def test_values_are_shown_at_once_and_watchers_hear_it_once() -> None:
    form = Form(Sample)
    calls: list[int] = []
    form.watch(lambda: calls.append(1))
    value = Sample(count=9, limit=4, yes=False, widths=(1, 2), thing=Big(share=0.25), more={"k": 1})
    form.show(value)
    assert form.value() == value
    assert calls == [1]


def test_a_form_can_be_closed_to_changes() -> None:
    form = Form(Sample)
    form.enable(False)
    assert form.fields["count"].control.disabled
    assert form.fields["thing"].form.fields["size"].control.disabled
    form.fields["thing"].control.value = "big"
    assert form.fields["thing"].form.fields["share"].control.disabled
    form.enable(True)
    assert not form.fields["thing"].form.fields["share"].control.disabled


@pytest.fixture
def job_form() -> Form:
    described = {each.name: each for each in options_of(Job)}
    return Form(Job, own={"model": Named(described["model"], described["model_options"], MODELS)}, omit=("model_options",))


def test_a_name_and_its_options_are_two_fields_of_the_owner(job_form: Form) -> None:
    assert job_form.value() == Job()
    model = job_form.fields["model"]
    model.control.value = "cnn"
    model.form.fields["channels"].control.value = "4, 8"
    assert job_form.value() == Job(model="cnn", model_options={"channels": [4, 8]})
    job_form.show(Job(model="mlp", model_options={"hidden": [32]}))
    assert model.control.value == "mlp"
    assert model.form.fields["hidden"].control.value == "32"


def test_a_callable_of_ones_own_is_given_by_its_path(job_form: Form) -> None:
    model = job_form.fields["model"]
    model.control.value = OTHER
    assert "unknown model ''" in job_form.check()
    job_form.show(Job(model="mine.nets:net", model_options={"depth": 2}))
    assert model.control.value == OTHER
    assert job_form.value() == Job(model="mine.nets:net", model_options={"depth": 2})


def test_stragglers_are_typed_in_short_and_shown_as_faults() -> None:
    form = Form(Job)
    form.fields["slow"].control.value = '{"3": 4}'
    job = form.value()
    assert job == Job(faults=(Slow(3, 4.0),))
    form.show(job)
    assert form.fields["slow"].control.value == ""
    assert form.fields["faults"].control.value == '[{"kind": "slow", "rank": 3, "factor": 4.0, "seconds": 0.0}]'
    assert form.value() == job
    form.fields["slow"].control.value = '{"1": 0.5}'
    assert "factor must be a number in [1, 1000], got 0.5" in form.fields["slow"].error
    form.fields["slow"].control.value = '{"3": 2}'
    assert "rank 3 has 2 faults of the kind slow" in form.fields["faults"].error
    form.fields["slow"].control.value = ""
    form.also = lambda job: job.check(2)
    assert "rank must be that of a worker, from 0 to 1, got 3" in form.check()
    assert form.fields["faults"].error == form.check()


def test_every_input_has_a_label_and_a_tooltip() -> None:
    inputs = [widget for widget in _below(Form(Job).root) if isinstance(widget, (ipywidgets.Text, ipywidgets.IntText, ipywidgets.Dropdown))]
    assert len(inputs) > 10
    for widget in inputs:
        assert widget.description
        assert widget.tooltip


def _below(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    return [widget, *(below for child in getattr(widget, "children", ()) for below in _below(child))]
