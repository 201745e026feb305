from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.callables import call
from workbench.data import DATA
from workbench.faults import Slow
from workbench.job import Job
from workbench.models import MODELS
from workbench.options import options_of
from workbench.strategies import STRATEGIES, Synchronous


def a_model() -> None:
    """A stand-in: only its name is looked at."""


def test_every_field_has_a_default_a_help_and_a_group() -> None:
    Job()
    assert all(o.help and o.group for o in options_of(Job))


@pytest.mark.parametrize(
    "job",
    [
        Job(),
        Job(steps=7, model="cnn", data_options={}),
        Job(slow={3: 4}, faults=(Slow(1, seconds=0.5),)),
        *(Job(strategy=name) for name in STRATEGIES),
    ],
)
def test_json_both_ways(job: Job, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job.to_json() | {"modules": {"mine": "0" * 64}}))
    assert Job.load(file) == job
    assert Job.load(tmp_path) == job


def test_a_saved_job_is_the_same_job(tmp_path: Path) -> None:
    job = Job(steps=7, strategy="gossip")
    file = job.save(tmp_path / "jobs" / "mine.json")
    assert file == tmp_path / "jobs" / "mine.json"
    assert Job.load(file) == job
    with pytest.raises(ValueError, match=r"is a folder; name the file in it: \S+/job\.json"):
        job.save(tmp_path)


@pytest.mark.parametrize(("field", "table"), [("model", MODELS), ("data", DATA), ("strategy", STRATEGIES)])
def test_a_string_stands_for_the_tables_default(field: str, table: dict[str, type]) -> None:
    for name in table:
        value = getattr(Job(**{field: name}), field)
        assert value == (table[name]() if field == "strategy" else name)


def test_length() -> None:
    assert (Job().epochs, Job().steps) == (1, None)
    assert (Job(steps=5).epochs, Job(steps=5).steps) == (None, 5)
    assert Job().replace(steps=5) == Job(steps=5)
    assert Job(steps=5).replace(epochs=2) == Job(epochs=2)


def test_slow_is_for_short() -> None:
    job = Job(slow={3: 4})
    assert job == Job(faults=(Slow(3, 4.0),)) == Job.from_json({"slow": {"3": 4}}) == Job(faults=[{"kind": "slow", "rank": 3, "factor": 4}])
    assert hash(job) == hash(Job(slow={"3": 4.0}))
    assert job.slow == {}
    told = json.loads(json.dumps(job.to_json()))
    assert (told["slow"], told["faults"]) == ({}, [{"kind": "slow", "rank": 3, "factor": 4.0, "seconds": 0.0}])
    assert Job(slow={0: 2}, faults=(Slow(1, seconds=0.5),)).faults == (Slow(1, 1.0, 0.5), Slow(0, 2.0))
    with pytest.raises(TypeError, match="cannot be changed"):
        job.slow[2] = 3.0


def test_new_stragglers_take_the_place_of_the_old() -> None:
    job = Job(slow={3: 4, 1: 2})
    assert job.replace(slow={3: 8}) == Job(slow={3: 8})
    assert job.replace(slow={}) == job.replace(faults=()) == Job()
    assert job.replace(steps=5) == Job(steps=5, slow={3: 4, 1: 2})


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Slow(1, 4), "slowed 4x"),
        (Slow(1, seconds=0.2), "slowed by 0.2 s a step"),
        (Slow(1, 1.5, 0.2), "slowed 1.5x and by 0.2 s a step"),
    ],
)
def test_a_fault_has_words(fault: Slow, words: str) -> None:
    assert fault.words == words


def test_a_function_is_kept_by_its_name() -> None:
    job = Job(model=a_model, loss=a_model)
    assert job.model == job.loss == f"{__name__}:a_model"


def test_options_of_a_job_are_its_own() -> None:
    given = {"hidden": (8, 8)}
    job = Job(model_options=given)
    given["hidden"] = (1,)
    assert job.model_options == {"hidden": [8, 8]}


def in_a_cell() -> type:
    class Net:
        pass

    Net.__module__, Net.__qualname__ = "__main__", "Net"
    return Net


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Job(model="mpl"), "unknown model 'mpl'; did you mean 'mlp'.*package.module:callable"),
        (lambda: Job(data="digts"), "unknown data 'digts'; did you mean 'digits'"),
        (lambda: Job(strategy="gosip"), "unknown strategy 'gosip'; did you mean 'gossip'"),
        (lambda: Job(strategy={"kind": "synchronous", "collective": "rng"}), "unknown collective 'rng'; did you mean 'ring'"),
        (lambda: Job(strategy={"kind": "synchronous", "colective": "ring"}), "Synchronous has no field 'colective'; did you mean 'collective'"),
        (lambda: Job(learning_rate=-0.1), r"Job\(learning_rate=-0.1\): learning_rate must be a number of at least 0, got -0.1"),
        (lambda: Job(batch_size=0), "batch_size must be a whole number of at least 1, got 0"),
        (lambda: Job(batch_size=1.5), "batch_size must be a whole number"),
        (lambda: Job(epochs=2, steps=3), "give epochs or steps, not both"),
        (lambda: Job(momentum=1.5), r"momentum must be a number in \[0, 1\], got 1.5"),
        (lambda: Job(model_options={"hiden": [3]}), "MLP has no field 'hiden'"),
        (lambda: Job(model="mine:net", model_options={"a": {1}}), "must hold plain JSON values"),
        (lambda: Job(model=in_a_cell()), r"(?s)defined in a notebook cell.*%%writefile net.py.*model=\"net:Net\""),
        (lambda: Job(model="__main__:Net"), "%%writefile"),
        (lambda: Job(loss=lambda model, batch: None), "must stand at the top level of a module"),
        (lambda: Job(loss="cross entropy"), "unknown loss 'cross entropy'; did you mean 'cross-entropy'"),
        (lambda: Job(loss="mse"), r"unknown loss 'mse' \(known: cross-entropy\), or \"package.module:callable\""),
        (lambda: Job(loss="mine:"), 'loss must read "package.module:callable"'),
        (lambda: Job(lr=0.1), "Job has no option 'lr'; did you mean 'learning_rate'"),
        (lambda: Job(bacth_size=8), "Job has no option 'bacth_size'; did you mean 'batch_size'"),
        (lambda: Job(strategy=None), r"Job\(strategy=None\): strategy must be one of 'synchronous', .*'gossip'.* or a value"),
        (lambda: Job(strategy={"every": 2}), "\"kind\" is missing, which says which strategy it is: one of 'synchronous'"),
        (lambda: Job(strategy=Synchronous), r"strategy must be a value, got the class; did you mean Synchronous\(\)"),
        (lambda: Job(model=3), "model must be a string, got 3"),
        (lambda: Job.from_json({"modle": "mlp"}), "Job has no field 'modle'; did you mean 'model'"),
        (lambda: Job.from_json([]), "described by a JSON object, got list"),
        (lambda: Job(batch_size=512).check(4), "batch_size may be 1 to 359"),
        (lambda: Slow(2), r"Slow\(rank=2\) slows nothing.*a factor above 1 or seconds above 0, as in Slow\(rank=2, factor=4\)"),
        (lambda: Job(faults=("slow",)), r"Slow\(rank=0\) slows nothing.*as in Slow\(rank=0, factor=4\)"),
        (lambda: Job(slow={3: 0.5}), r"Job\(slow={3: 0.5}\): Slow\(factor=0.5\): factor must be a number in \[1, 1000\], got 0.5"),
        (lambda: Job(slow={"x": 2}), r"Job\(slow={'x': 2}\): Slow\(rank='x'\): rank must be a whole number of at least 0, got 'x'"),
        (lambda: Job(slow=4), "slow must be a dict, got 4"),
        (lambda: Job(faults=Slow(1, 2)), r"faults must be a tuple or list, each one of 'slow' or a value .*; a single one is given as \(Slow\("),
        (lambda: Job(faults=[{"kind": "slwo"}]), r"unknown faults\[0\] 'slwo'; did you mean 'slow'"),
        (lambda: Job(slow={3: 4, "3": 2}), "rank 3 has 2 faults of the kind slow; give it one, with a factor and seconds"),
        (lambda: Job(slow={4: 2}).check(4), r"Job\(faults=.*\): rank must be that of a worker, from 0 to 3, got 4, which does not exist"),
        (lambda: Job(slow={2: 2}).check(1), "rank must be that of a worker, 0, got 2"),
        (lambda: Job(slow={3: 2}, strategy="parameter-server").check(4), "from 0 to 2, got 3, which is a server"),
        (lambda: Job().check(0), "ranks must be a whole number of at least 1, got 0"),
        (lambda: Job().check(True), "ranks must be a whole number"),
    ],
)
def test_wrong_choices_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_check_asks_the_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Synchronous, size: int) -> None:
        raise ValueError(f"not on {size}")

    monkeypatch.setattr(Synchronous, "check", check)
    with pytest.raises(ValueError, match="not on 3"):
        Job().check(3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not a JSON file"),
        ('{"modle": 1}', "job.json: Job has no field 'modle'"),
        ("[1]", "described by a JSON object"),
        ("\xff", "is not a JSON"),
    ],
)
def test_a_job_file_that_is_wrong_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=words):
        Job.load(tmp_path / "job.json")
    with pytest.raises(ValueError, match="there is no job file"):
        Job.load(tmp_path / "other.json")


def test_modules_are_the_users_files_under_the_folder(tmp_path: Path) -> None:
    for name, text in {
        "net.py": "import numpy\nimport layers.wide as w\nfrom helpers_of_mine import x\n",
        "layers/__init__.py": "",
        "layers/wide.py": "from . import narrow\nfrom .deep import y\n",
        "layers/narrow.py": "",
        "layers/deep.py": "def broken(:\n",
        "helpers_of_mine.py": "import net\n",
        "unused.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    job = Job(model="net:Net", loss="torch.nn:CrossEntropyLoss", data="elsewhere:data")
    first = job.modules(tmp_path)
    assert list(first) == ["helpers_of_mine", "layers", "layers.deep", "layers.narrow", "layers.wide", "net"]
    (tmp_path / "layers/narrow.py").write_text("x = 1\n")
    changed = job.modules(tmp_path)
    assert [name for name in changed if changed[name] != first[name]] == ["layers.narrow"]
    assert Job().modules(tmp_path) == {}


def test_a_job_file_that_is_nested_too_deeply(tmp_path: Path) -> None:
    for text in ('{"model_options": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001, "[" * 100_000, '{"learning_rate": 1' + "0" * 400 + "}"):
        (tmp_path / "job.json").write_text(text)
        with pytest.raises(ValueError, match=r"job\.json( is nested too deeply|: Job\(learning_rate=1000)"):
            Job.load(tmp_path / "job.json")
    deep: dict[str, object] = {}
    for _ in range(50_000):
        deep = {"a": deep}
    with pytest.raises(ValueError, match="model_options must hold plain JSON values, nested less deeply"):
        Job(model="my.module:Net", model_options=deep)


def test_the_options_of_a_job_are_frozen() -> None:
    given: dict[str, Any] = {"hidden": [4, 5], "more": {"deep": [1]}}
    job = Job(model="my.module:Net", model_options=given)
    given["hidden"].append(6)
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda options: options.update(x=1),
        lambda options: options.pop("hidden"),
        lambda options: options.__setitem__("x", 1),
        lambda options: options.__ior__({"x": 1}),
        lambda options: options["hidden"].append(1),
        lambda options: options["more"]["deep"].sort(),
        lambda options: options["more"].clear(),
    ]
    for change in changes:
        with pytest.raises(TypeError, match=r"cannot be changed; make another job: job\.replace"):
            change(job.model_options)
    assert job.model_options == {"hidden": [4, 5], "more": {"deep": [1]}}
    for same in (Job.from_json(json.loads(json.dumps(job.to_json()))), pickle.loads(pickle.dumps(job)), copy.deepcopy(job), job.replace()):
        assert same == job
        assert hash(same) == hash(job)
    assert len({job, job.replace(seed=1), Job(), Job()}) == 3
    told = job.to_json()
    told["model_options"]["hidden"].append(6)  # a copy
    assert job.model_options["hidden"] == [4, 5]


def test_a_callable_gets_options_that_it_may_change() -> None:
    def net(hidden: list[int]) -> list[int]:
        hidden.append(10)
        return hidden

    job = Job(model="my.module:Net", model_options={"hidden": [4]})
    assert call("model", job.model, net, job.model_options, {}) == [4, 10]
    assert job.model_options == {"hidden": [4]}
