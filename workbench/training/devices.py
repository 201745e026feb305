"""Which device a rank computes on: chosen by its number on its host, through the environment, before torch loads.

Nothing here imports torch until `torch_device` is called: a process that has loaded CUDA no longer sees a change of
`CUDA_VISIBLE_DEVICES`.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    import torch

GPUS: Final = "WORKBENCH_GPUS"
"""Environment: what the ranks of a host are bound to, in turn: a JSON list of Gpu; "[]" for processors."""
BINDING: Final = "WORKBENCH_BINDING"
"""Environment: what this rank was bound to: a Binding as JSON."""

Devices = str | Sequence[int | str]

_LOCAL: Final = (  # local rank and ranks on this host, as the launchers say it
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
    ("SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    ("PMI_RANK", "PMI_SIZE"),
)


@final
@dataclass(frozen=True)
class Gpu:
    """A GPU (or a MIG slice of one): `token` is what CUDA_VISIBLE_DEVICES takes, `index` its place among those visible here."""

    token: str
    name: str
    index: int


@final
@dataclass(frozen=True)
class Binding:
    """What one rank computes on. `shared` is the number of ranks of this host on the same GPU; 1: it has it to itself."""

    gpu: Gpu | None = None
    shared: int = 1

    @property
    def label(self) -> str:
        """The words for a person: "CPU", "GPU 1, NVIDIA H200", "GPU 0, NVIDIA H200, shared by 2 ranks"."""
        if self.gpu is None:
            return "CPU"
        return f"GPU {self.gpu.index}, {self.gpu.name}" + (f", shared by {self.shared} ranks" if self.shared > 1 else "")


def check_devices(devices: Devices) -> str | tuple[int | str, ...]:
    """`devices` in its plain form, or a ValueError that says what is allowed."""
    allowed = '"auto", "cpu" or a list such as [0, 1]: numbers (or UUIDs) of GPUs, dealt to the ranks of a host in turn'
    if isinstance(devices, str):
        if devices not in ("auto", "cpu"):
            raise ValueError(f"devices={devices!r}: devices must be {allowed}, got {devices!r}")
        return devices
    if not isinstance(devices, Sequence) or not devices:
        raise ValueError(f"devices={devices!r}: devices must be {allowed}, got {devices!r}")
    for entry in devices:
        number = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
        if not number and not (isinstance(entry, str) and re.match(r"(GPU|MIG)-", entry)):
            raise ValueError(f"devices={list(devices)!r}: devices must be {allowed}, got {entry!r}")
    return tuple(devices)


def choose(devices: str | tuple[int | str, ...], visible: Sequence[Gpu] | None = None) -> list[Gpu]:
    """The GPUs that the ranks of this host take in turn; none: processors. ValueError for a GPU that is not there.

    `visible` are the GPUs of this host (found if not given).
    """
    if devices == "cpu" or (devices == "auto" and _torch_for_cpu()):
        return []
    found = list(visible_gpus() if visible is None else visible)
    if devices == "auto":
        return found
    chosen = []
    for entry in devices:
        match = [gpu for gpu in found if entry in (gpu.index, gpu.token)]
        if not match:
            there = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in found) or "none"
            raise ValueError(f"devices={list(devices)!r}: there is no GPU {entry!r} here; visible GPUs: {there}")
        chosen.append(match[0])
    if _torch_for_cpu():
        raise ValueError(
            f'devices={list(devices)!r}: the installed torch is built for processors only; use devices="cpu" or install a CUDA build of torch'
        )
    return chosen


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs of this host that CUDA_VISIBLE_DEVICES lets this process see, asked of the driver without loading CUDA."""
    found = _from_smi() or _from_proc()
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None:
        kept = []
        for token in filter(None, (part.strip() for part in wanted.split(","))):
            match = [gpu for place, gpu in enumerate(found) if token == str(place) or gpu[0].startswith(token)]
            if not match:
                break  # CUDA itself ends the list at the first one that it does not know
            kept.append(match[0])
        found = kept
    return [Gpu(token, name, index) for index, (token, name) in enumerate(found)]


def local_rank(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(number of this rank on its host, ranks on this host), from the environment that the launcher made; (0, 1) without one."""
    for rank, size in _LOCAL:
        if rank in environ:
            ranks = re.match(r"\d+", environ.get(size, ""))
            return int(environ[rank]), int(ranks.group()) if ranks else 1
    return 0, 1


def bind(environ: MutableMapping[str, str] = os.environ) -> Binding:
    """Bind this rank to its device by setting CUDA_VISIBLE_DEVICES. To be called before torch is imported."""
    gpus = [Gpu(**gpu) for gpu in json.loads(environ.get(GPUS, "[]"))]
    rank, ranks = local_rank(environ)
    if gpus:
        gpu = gpus[rank % len(gpus)]
        shared = sum(gpus[other % len(gpus)].token == gpu.token for other in range(max(ranks, rank + 1)))
        binding = Binding(gpu, shared)
        environ["CUDA_VISIBLE_DEVICES"] = gpu.token
    else:
        binding = Binding()
        environ["CUDA_VISIBLE_DEVICES"] = ""
    environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    environ[BINDING] = json.dumps(asdict(binding))
    return binding


def bound(environ: Mapping[str, str] = os.environ) -> Binding:
    """What `bind` chose for this process; processors if it was not called."""
    told: dict[str, Any] = json.loads(environ.get(BINDING, "{}"))
    gpu = told.get("gpu")
    return Binding(Gpu(**gpu) if gpu else None, told.get("shared", 1))


def torch_device(binding: Binding) -> torch.device:
    """The torch device of this rank. Imports torch. RuntimeError when the GPU that it was bound to cannot be used."""
    import torch

    if binding.gpu is None:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError(f'{binding.label} cannot be used by this torch ({torch.__version__}); start the cluster with devices="cpu"')
    return torch.device("cuda", 0)


def transport(binding: Binding) -> str:
    """How buffers of this rank reach MPI: "host", "staged through pinned memory" or "CUDA-aware MPI"."""
    if binding.gpu is None:
        return "host"
    return "CUDA-aware MPI" if mpi_is_cuda_aware() else "staged through pinned memory"


def mpi_is_cuda_aware() -> bool:
    """Whether the MPI library that this process has loaded says that it takes pointers into GPU memory."""
    try:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if re.search(r"/libmpi[^/]*\.so", line)}
    except OSError:
        return False
    for path in loaded:
        query = getattr(ctypes.CDLL(path), "MPIX_Query_cuda_support", None)
        if query is not None and query() == 1:
            return True
    return False


def _torch_for_cpu() -> bool:
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _from_smi() -> list[tuple[str, str]]:
    """(token, name) of the GPUs that `nvidia-smi -L` lists; of a GPU that is cut into MIG slices, the slices."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_smi(listed)


def parse_smi(listed: str) -> list[tuple[str, str]]:
    """(token, name) of the lines of `nvidia-smi -L`."""
    found: list[tuple[str, str]] = []
    whole = ""
    for line in listed.splitlines():
        if match := re.match(r"GPU \d+: (.+?) \(UUID: (GPU-[^)]+)\)", line):
            whole = match[1]
            found.append((match[2], whole))
        elif match := re.match(r"\s+(MIG \S+).*\(UUID: (MIG-[^)]+)\)", line):
            if found and found[-1][1] == whole:
                found.pop()
            found.append((match[2], f"{whole} {match[1]}"))
    return found


def _from_proc() -> list[tuple[str, str]]:
    """(token, name) of the GPUs that the kernel driver lists, where there is no nvidia-smi."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            told = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        token = told.get("GPU UUID", "").strip()
        if token.startswith("GPU-"):
            found.append((token, told.get("Model", "GPU").strip()))
    return found
