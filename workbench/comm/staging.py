"""Where a communicator can reach a tensor: its own memory on a CPU, pinned host memory beside a GPU."""

from __future__ import annotations

from typing import Any, final

from workbench.comm.base import ANY, Array, Request, checked, described


@final
class Recorded:
    """A request that is complete once a stream of the device has done what was asked of it so far."""

    __slots__ = ("_event", "done", "source")

    lost = False

    def __init__(self, stream: Any) -> None:
        self._event = stream.record_event()
        self.done = False
        self.source = ANY

    def __str__(self) -> str:
        return "the device"

    def test(self) -> bool:
        """Ask the device; does not wait for it."""
        self.done = self.done or self._event.query()
        return self.done


class Staged:
    """A tensor and the host array through which it travels.

    Of a CPU tensor (or a NumPy array) the host array *is* its memory, and bringing it there and back is nothing. Of a GPU
    tensor it is a page-locked copy, made once: the MPI libraries that come as wheels do not read device memory.
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self._pinned: Any = None
        self._stream: Any = None
        if getattr(getattr(tensor, "device", None), "type", "cpu") != "cpu":
            import torch

            self._pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._stream = torch.cuda.Stream(tensor.device)  # type: ignore[no-untyped-call]
        self.host: Array = memory(tensor if self._pinned is None else self._pinned)

    @property
    def path(self) -> str:
        """How the tensor reaches MPI, in words."""
        return "host" if self._pinned is None else "staged through pinned memory"

    def fetch(self) -> None:
        """Bring the device's values to the host array."""
        if self._pinned is not None:
            self._pinned.copy_(self.tensor)

    def store(self) -> None:
        """Bring the host array's values to the device."""
        if self._pinned is not None:
            self.tensor.copy_(self._pinned)

    def fetching(self) -> tuple[Request, ...]:
        """Begin to bring what the rank has computed so far to the host array: what must be complete before it is there."""
        if self._pinned is None:
            return ()
        import torch

        self._stream.wait_stream(torch.cuda.current_stream(self.tensor.device))
        return self._copied(self._pinned, self.tensor)

    def storing(self) -> tuple[Request, ...]:
        """Begin to bring the host array's values back after a `fetching`, since when the rank must have left the tensor alone.

        It waits for nothing that the rank has asked of the device meanwhile: an exchange ends while backward goes on.
        """
        return () if self._pinned is None else self._copied(self.tensor, self._pinned)

    def _copied(self, target: Any, source: Any) -> tuple[Request, ...]:
        import torch

        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        return (Recorded(self._stream),)


def memory(tensor: Any) -> Array:
    """What an array or a tensor on the host holds, as an array; ValueError unless these are floating-point numbers that NumPy knows."""
    try:
        array = checked(tensor.detach().numpy() if hasattr(tensor, "detach") else tensor)
    except TypeError:  # torch's word for a dtype that NumPy lacks
        array = None
    if array is None or array.dtype.kind != "f":
        raise ValueError(f"an exchange takes float64, float32 or float16 (what travels is the wire's choice), got {described(tensor)}")
    if not array.flags.writeable:
        raise ValueError("an exchange leaves the mean in its segment, got one that is read-only")
    return array


def flat(segment: Any) -> Any:
    """`segment` if it is of shape (n,), or a ValueError."""
    shape = tuple(getattr(segment, "shape", (0,)))
    if len(shape) != 1:
        raise ValueError(f"an exchange takes a segment of shape (n,), got one of shape {shape}; give its flat view")
    return segment
