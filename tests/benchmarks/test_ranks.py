"""Ranks that measure: heats on real ones, lines as they come, an end in good order."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workbench.benchmarks.ranks import meeting_place, told
from workbench.errors import WorkbenchError

pytestmark = pytest.mark.mpi


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    # ranks are started with a path that leaves the working directory out
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_every_entry_of_a_heat_is_timed_on_every_round() -> None:
    lines = list(told(2, "tests.benchmarks.heats"))
    timed = {tuple(line["entry"]): line for line in lines if "samples" in line}
    assert set(timed) == {("ring", "float32"), ("ring", "int8"), ("MPI Allreduce and division", "float32")}
    assert len({len(line["samples"]) for line in timed.values()}) == 1
    assert all(min(line["samples"]) > 0 for line in timed.values())
    assert timed["ring", "float32"]["predicted"] > timed["ring", "int8"]["predicted"] > 0
    (left_out,) = (line for line in lines if "left_out" in line)
    assert left_out["entry"] == ["native", "int8"]
    assert "wire must be Float32()" in left_out["left_out"]
    (calibrated,) = (line for line in lines if "bandwidth" in line)
    assert calibrated["latency"] > 0
    assert calibrated["bandwidth"] > 0


def test_lines_come_as_they_are_told_and_closing_ends_the_ranks() -> None:
    lines = told(2, "tests.benchmarks.endless")
    pids = next(lines)["pids"]
    assert len(pids) == 2
    lines.close()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline, "ranks outlive the one who asked"
        time.sleep(0.05)


def test_ranks_that_are_silent_are_ended_and_named() -> None:
    lines = told(1, "tests.benchmarks.endless", silence=3.0)
    next(lines)
    with pytest.raises(WorkbenchError, match=r"tests\.benchmarks\.endless on 1 ranks has said nothing for 3 s"):
        next(lines)


def test_ranks_that_fail_are_named_with_their_exit_code() -> None:
    with pytest.raises(WorkbenchError, match=r"workbench\.benchmarks\.exchange_ranks on 1 ranks ended with exit code"):
        list(told(1, "workbench.benchmarks.exchange_ranks", "--network", "1T"))


def test_gloo_meets_on_loopback_alone() -> None:
    place = meeting_place()
    assert (place["MASTER_ADDR"], place["GLOO_SOCKET_IFNAME"]) == ("127.0.0.1", "lo")
    assert 0 < int(place["MASTER_PORT"]) < 65536


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("step", "--ranks", "2,4"), "--ranks is for bench exchange, got bench step"),
        (("--out", "somewhere"), "--out is for bench exchange and bench curves, got bench (all of them)"),
        (("step", "--network", "1G"), "--network is for bench exchange and bench overlap, got bench step"),
        (("exchange", "--ranks", "two"), "--ranks must be whole numbers with commas between them, as in 2,4; got 'two'"),
        (("exchange", "--ranks", "1"), "ranks must be whole numbers of at least 2, got 1"),
    ],
)
def test_options_of_one_benchmark_are_refused_by_others(words: tuple[str, ...], error: str) -> None:
    command = [sys.executable, "-c", "from workbench.cli import main; main()", "bench", *words]
    done = subprocess.run(command, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert error in done.stderr
