from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.benchmarks import BENCHMARKS
from workbench.channel.launch import MpiProfile
from workbench.cli import doctor
from workbench.cli.listing import GROUPS
from workbench.comm.network import Network
from workbench.errors import ClusterNotStarted
from workbench.job import Job
from workbench.options import options_of
from workbench.wires import WIRES

COMMANDS = ("demo", "train", "compare", "export", "options", "bench", "lab", "doctor", "stop", "list")


def workbench(*words: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a home of its own, so that no cluster of anybody is seen."""
    command = [sys.executable, "-c", "from workbench.cli import main; main()", *map(str, words)]
    environment = {**os.environ, **({"IPYTHONDIR": str(folder)} if folder else {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def test_help_names_every_command() -> None:
    shown = workbench("--help")
    assert shown.returncode == 0
    assert all(f" {name} " in shown.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_shows_an_example(name: str) -> None:
    shown = workbench(name, "--help")
    assert shown.returncode == 0
    assert f"Example: workbench {name}" in shown.stdout


def test_help_of_bench_names_every_benchmark_and_says_what_its_exit_code_means() -> None:
    words = " ".join(workbench("bench", "--help").stdout.split())
    assert ", ".join(BENCHMARKS) in words
    assert "Exit code 1 if a figure misses its target" in words
    assert "noisy" in words


def test_bad_input_is_a_message_and_exit_code_2(tmp_path: Path) -> None:
    unknown, good, large = (tmp_path / f"{name}.json" for name in ("unknown", "good", "large"))
    unknown.write_text('{"modle": "mlp"}')
    good.write_text(json.dumps(Job().to_json()))
    large.write_text(json.dumps(Job(batch_size=512).to_json()))
    for words, said in (
        (("train", unknown, "--ranks", "2"), "Job has no field 'modle'; did you mean 'model'"),
        (("train", tmp_path / "none.json", "--ranks", "2"), "there is no job file"),
        (("train", good, "--ranks", "0"), "greater than or equal to 1"),
        (("train", good), "--ranks"),
        (("train", large, "--ranks", "4"), "batch_size may be 1 to 359"),
        (("train", good, "--ranks", "2", "--virtual", "--network", "2G"), "unknown network '2G'"),
        (("train", good, "--ranks", "2", "--network", "2G"), "unknown network '2G'"),
        (("train", good, "--ranks", "2", "--virtual", "--devices", "cpu"), "--devices cpu is for real ranks, --virtual simulates them"),
        (("options", "rng"), "unknown name 'rng'; did you mean 'ring'"),
        (("compare", tmp_path / "none"), "there is no such folder"),
        (("compare", tmp_path), "is not the folder of a run: it has no job.json"),
        (("export", tmp_path), "workbench export DIR --parquet"),
        (("bench", "stp"), "unknown benchmark 'stp'; did you mean 'step'"),
        (("stop", "nobody"), "no cluster 'nobody'"),
        (("stop", "no body"), "name must be letters"),
        (("lab", tmp_path / "none"), "folder must be a folder that exists"),
        (("tran",), "No such command 'tran'"),
    ):
        done = workbench(*words, folder=tmp_path / "ipython")
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        assert said in " ".join(done.stderr.split()), (words, done.stderr)
        assert "Traceback" not in done.stderr


def test_what_the_file_system_refuses_is_a_message_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "job.json").write_text("{}")
    (tmp_path / "file").write_text("")
    done = workbench("compare", tmp_path / "run", "--report", tmp_path / "file" / "page.html")
    assert done.returncode == 1
    assert "failed:" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_of_train_shows_a_job_file_that_is_one(tmp_path: Path) -> None:
    (shown,) = re.findall(r"\{\".*?\}", " ".join(workbench("train", "--help").stdout.split()))
    (tmp_path / "job.json").write_text(shown)
    assert Job.load(tmp_path / "job.json") == Job(epochs=5, strategy="gossip")


def test_options_are_those_of_the_tables() -> None:
    said = " ".join(workbench("options", "--help").stdout.split()).lower()
    assert all(word in said for group in GROUPS for word in group.split(" and "))
    shown = workbench("options")
    assert shown.returncode == 0, shown.stderr
    words = " ".join(shown.stdout.split())
    for group, members in GROUPS.items():
        assert group in words
        for name, cls in members.items():
            assert re.search(rf"^{name}  \w", shown.stdout, flags=re.M), name
            assert all(described.name in words for described in options_of(cls))
    for said in (
        "a whole number of at least 1 (steps)",
        "a whole number in [0, 4294967295]",
        "one of native, ring, halving-doubling",
        "a number in [0, 1]",
        "[64]",
    ):
        assert said in words, said
    one = workbench("options", "gossip").stdout
    assert "local steps between two exchanges" in one
    assert "collective" not in one
    network = " ".join(workbench("options", "network").stdout.split())
    assert all(f"{preset} is {Network.of(preset).words}" in network for preset in Network.PRESETS)
    shown = re.findall(r"^(\S+)  [A-Z]", workbench("options", "wires").stdout, flags=re.M)
    assert [name for name in shown if name in WIRES] == list(WIRES)


def test_list_without_a_cluster(tmp_path: Path) -> None:
    done = workbench("list", folder=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "no cluster is up")


def test_doctor_says_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> MpiProfile:
        raise ClusterNotStarted("openmpi and mpich are both installed")

    monkeypatch.setattr(doctor, "find_mpi", none)
    (found,) = doctor._mpi()
    assert found.state == "bad"
    assert "both installed" in found.text


@pytest.mark.mpi
def test_doctor_tries_two_ranks() -> None:
    findings = {finding.what: finding for finding in doctor._mpi()}
    assert findings["two ranks"].state == "ok", findings["two ranks"]


@pytest.mark.parametrize(
    ("script", "words"),
    [("echo 1 True", "each rank is alone"), ("echo 2 False", "no MPI_THREAD_MULTIPLE"), ("echo broken >&2; exit 3", "mpiexec failed: broken")],
)
def test_doctor_tells_what_is_wrong_with_two_ranks(script: str, words: str, tmp_path: Path) -> None:
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text(f"#!/bin/sh\n{script}\n")
    mpiexec.chmod(0o755)
    found = doctor._two_ranks(MpiProfile("other", "a library", str(mpiexec)))
    assert (found.state, bool(found.cure)) == ("bad", True)
    assert words in found.text
