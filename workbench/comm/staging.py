"""Where a communicator can reach a tensor: its own memory on a CPU, pinned host memory beside a GPU."""

from __future__ import annotations

from typing import Any

from workbench.comm.base import Array, checked


class Staged:
    """A tensor and the host array through which it travels.

    Of a CPU tensor (or a NumPy array) the host array *is* its memory, and `fetch` and `store` do nothing. Of a GPU
    tensor it is a page-locked copy, made once: the MPI libraries that come as wheels do not read device memory.
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self._pinned: Any = None
        if hasattr(tensor, "device") and hasattr(tensor, "numpy"):
            if tensor.device.type != "cpu":
                import torch

                self._pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self.host: Array = checked((tensor if self._pinned is None else self._pinned).detach().numpy())
        else:
            self.host = checked(tensor)

    def fetch(self) -> None:
        """Bring the device's values to the host array."""
        if self._pinned is not None:
            self._pinned.copy_(self.tensor)

    def store(self) -> None:
        """Bring the host array's values to the device."""
        if self._pinned is not None:
            self.tensor.copy_(self._pinned)
