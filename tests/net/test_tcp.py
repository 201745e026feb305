"""Four hosts inside this machine, real TCP over a 1 Gbit link each: the laws hold, and what is declared is what the links carry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.benchmarks.namespaces import Hosts, missing

pytestmark = pytest.mark.mpi
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with Hosts(4, rate="1gbit") as made:
        yield made


def test_laws_and_bytes_between_four_hosts(hosts: Hosts) -> None:
    done = hosts.mpiexec(4, sys.executable, "-m", "tests.net.ranks", environment={"PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "laws kept on 4 hosts" in done.stdout


def test_hosts_see_each_other_and_nothing_else(hosts: Hosts) -> None:
    routes = subprocess.run(hosts.command(2, "ip", "route"), capture_output=True, text=True, check=True).stdout.splitlines()
    assert [route.split()[0] for route in routes] == ["10.77.0.0/24"]
    links = subprocess.run(hosts.command(2, "ls", "/sys/class/net"), capture_output=True, text=True, check=True).stdout.split()
    assert sorted(links) == ["lo", "veth0"]


def test_nothing_is_added_to_the_machine(hosts: Hosts) -> None:
    def machine() -> tuple[set[str], str]:
        return set(os.listdir("/sys/class/net")), Path("/proc/mounts").read_text()

    before = machine()
    with Hosts(1):
        assert machine() == before
    assert machine() == before


def test_hosts_end_with_their_maker_even_when_it_is_killed(hosts: Hosts) -> None:
    code = (
        "import subprocess, sys, time; from workbench.benchmarks.namespaces import Hosts; hosts = Hosts(1); "
        "work = subprocess.Popen(hosts.command(1, 'sleep', '100')); print(hosts._holder.pid, work.pid, flush=True); time.sleep(100)"
    )
    maker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert maker.stdout is not None
    left = [int(pid) for pid in maker.stdout.readline().split()]
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    deadline = time.monotonic() + 10
    while any(runs(pid) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(runs(pid) for pid in left)


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
