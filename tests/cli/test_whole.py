"""Whole commands on real clusters, as a shell sees them: what they print, how they exit, what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from workbench.channel import reaper
from workbench.channel.processes import profile_dir
from workbench.job import Job
from workbench.runs.run import Run

pytestmark = pytest.mark.cluster


def start(*words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from workbench.cli import main; main()", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})


def job_file(folder: Path, **options: Any) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(Job(**options).to_json()))
    return path


def only_run(out: Path) -> Run:
    (folder,) = (child for child in out.iterdir() if child.is_dir())
    return Run.open(folder)


def processes_of(process: subprocess.Popen[str]) -> list[reaper.Found]:
    """What the cluster of a command consists of now."""
    return [found for found in reaper.processes(profile_dir()) if found.cluster.endswith(f"-{process.pid}")]


def nothing_left_of(process: subprocess.Popen[str]) -> bool:
    return not processes_of(process)


def until_training(out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not list(out.glob("*/rank-*.arrow")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not begin"
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["real", "virtual"])
def test_train_compare_and_export(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    process = start("train", job_file(tmp_path, epochs=2), "--ranks", "2", "--out", out, *(["--virtual"] if kind == "virtual" else []))
    shown, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    run = only_run(out)
    assert run.status == "done"
    assert str(run.folder) in shown
    assert "synchronous ring" in shown
    assert nothing_left_of(process)

    report = tmp_path / "page.html"
    process = start("compare", run.folder, run.folder, "--report", report)
    shown, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    accuracy = f"{100 * run.summary()['accuracy']:.1f} %"
    assert shown.count(accuracy) == 2
    assert accuracy in report.read_text()

    process = start("export", run.folder, "--parquet", "--out", tmp_path)
    shown, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert all(Path(line).is_file() for line in shown.splitlines())
    assert (tmp_path / "steps.parquet").is_file()


def test_an_interrupt_stops_the_run_and_keeps_it(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    process = start("train", job_file(tmp_path, steps=10**6), "--ranks", "2", "--out", out)
    until_training(out, process)
    process.send_signal(signal.SIGINT)
    shown, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "stopping at the next step" in shown
    run = only_run(out)
    assert run.status == "stopped"
    assert len(run.frame()) > 0
    assert run.model() is not None
    assert nothing_left_of(process)


def test_a_run_that_fails_is_exit_code_1_and_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    process = start("train", job_file(tmp_path, learning_rate=1e9, steps=200), "--ranks", "2", "--out", out)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "failed at step" in said
    assert "nan" in said.lower() or "inf" in said.lower()
    assert only_run(out).status == "failed"
    assert nothing_left_of(process)


def test_an_interrupt_while_the_ranks_start_leaves_no_process(tmp_path: Path) -> None:
    process = start("train", job_file(tmp_path), "--ranks", "2", "--out", tmp_path)
    deadline = time.monotonic() + 60
    while not any("workbench.channel.engine" in found.command for found in processes_of(process)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no rank is started"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # the ranks are there, but have not reported yet
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert nothing_left_of(process)


def test_the_demo(tmp_path: Path) -> None:
    process = start("demo", "--ranks", "2", "--out", tmp_path)
    shown, said = process.communicate(timeout=170)
    assert process.returncode == 0, said
    for words in ("synchronous (ring", "synchronous (halving-doubling", "gossip", "accuracy", "report with plots:", "the notebook:"):
        assert words in shown
    page = Path(next(line for line in shown.splitlines() if line.startswith("report")).partition(":")[2].strip())
    text = page.read_text()
    assert "Bokeh" in text
    assert "<script src" not in text
    assert "<link" not in text
    assert nothing_left_of(process)


def test_list_and_stop_see_a_cluster_of_another_process(tmp_path: Path) -> None:
    code = "import sys; from workbench import Cluster; Cluster(2, name=sys.argv[1], devices='cpu').start()"
    name = f"listed-{os.getpid()}"
    subprocess.run([sys.executable, "-c", code, name], check=True, timeout=90, cwd=tmp_path)
    try:
        process = start("list")
        shown, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        (line,) = (line for line in shown.splitlines() if line.startswith(name))
        assert line.split()[1:4] == ["up", "2", "cpu"]
    finally:
        process = start("stop", name)
        shown, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert f"stopped {name}" in shown
    assert not reaper.processes(profile_dir(), name)
