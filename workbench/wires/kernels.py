"""Codecs as kernels of the GPU: numbers are coded where they are, and only narrow messages cross the bus.

The same arithmetic, operation by operation, as the coders of the host: a message, and what becomes of it, has the same
bits on both, so that ranks with and without a GPU can exchange. Needs CuPy, which compiles a kernel when a plan first uses it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, final

import numpy as np

from workbench.comm.base import Array, Request
from workbench.comm.staging import Recorded
from workbench.wires.base import Codec

THREADS: Final = 256  # of a block: the numbers of a block of int8
BLOCKS: Final = 1 << 12  # more is a loop: enough for every GPU, and backward needs it too
OPTIONS: Final = ("--std=c++17", "--fmad=false")  # a product is rounded before it is added, as on the host

# what a device has an instruction for
HALVES: Final = r"""
__device__ unsigned short to_float16(float x) { unsigned short h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); return h; }
__device__ float from_float16(unsigned short h) { float x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h)); return x; }
"""

BRAIN_FLOATS: Final = r"""
__device__ unsigned short to_bfloat16(float x)
{
    unsigned bits = __float_as_uint(x);
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
}
__device__ float from_bfloat16(unsigned short b) { return __uint_as_float((unsigned)b << 16); }
"""

CAST: Final = r"""
extern "C" __global__ void encode(real *numbers, unsigned short *message, long long length, real divisor)
{
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < length; i += (long long)gridDim.x * blockDim.x) {
        real x = numbers[i];
        if (divisor != 1) numbers[i] = x = x / divisor;
        message[i] = to_NARROW((float)x);
    }
}
extern "C" __global__ void decode(real *numbers, const unsigned short *message, long long length)
{
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < length; i += (long long)gridDim.x * blockDim.x)
        numbers[i] = from_NARROW(message[i]);
}
extern "C" __global__ void add(real *numbers, const unsigned short *message, long long length)
{
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < length; i += (long long)gridDim.x * blockDim.x)
        numbers[i] += from_NARROW(message[i]);
}
"""

QUANTIZE: Final = r"""
#define BLOCK 256
#define STRIDE (4 + BLOCK)  // a scale and its codes

__device__ unsigned highest(unsigned mine)
{
    for (int lanes = 16; lanes; lanes /= 2) mine = max(mine, __shfl_xor_sync(0xffffffff, mine, lanes));
    return mine;
}
extern "C" __global__ void encode(real *numbers, signed char *message, long long length, real divisor)
{
    __shared__ unsigned top;
    for (long long first = (long long)blockIdx.x * BLOCK; first < length; first += (long long)gridDim.x * BLOCK) {
        long long i = first + threadIdx.x;
        signed char *piece = message + first / BLOCK * STRIDE;
        real x = i < length ? numbers[i] : 0;
        if (divisor != 1 && i < length) numbers[i] = x = x / divisor;
        if (threadIdx.x == 0) top = 0;
        __syncthreads();
        // the bits of floats without their sign are in the order of the floats, with no number (NaN) above all
        unsigned mine = highest(__float_as_uint((float)x) & 0x7fffffff);
        if (threadIdx.x % 32 == 0) atomicMax(&top, mine);
        __syncthreads();
        float scale = __uint_as_float(top) / 127;
        if (scale < 1.17549435e-38f) scale = 1.17549435e-38f;
        if (threadIdx.x == 0) *(float *)piece = scale;
        real code = rint(x / (real)scale);
        if (code != code) code = 0;
        if (code > 127) code = 127;
        if (code < -127) code = -127;
        if (i < length) piece[4 + threadIdx.x] = (signed char)code;
        __syncthreads();  // nobody begins the next block's top before all have read this one's
    }
}
__device__ real said(const signed char *message, long long i)
{
    const signed char *piece = message + i / BLOCK * STRIDE;
    return (real)piece[4 + i % BLOCK] * (real)*(const float *)piece;
}
extern "C" __global__ void decode(real *numbers, const signed char *message, long long length)
{
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < length; i += (long long)gridDim.x * blockDim.x)
        numbers[i] = said(message, i);
}
extern "C" __global__ void add(real *numbers, const signed char *message, long long length)
{
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < length; i += (long long)gridDim.x * blockDim.x)
        numbers[i] += said(message, i);
}
"""

KERNELS: Final = {
    "float16": HALVES + CAST.replace("NARROW", "float16"),
    "bfloat16": BRAIN_FLOATS + CAST.replace("NARROW", "bfloat16"),
    "int8": QUANTIZE,
}
"""A codec's `kernel` -> its `encode`, `decode` and `add` of numbers of type `real`, in CUDA C++ that includes nothing."""


def source(kernel: str, dtype: str) -> str:
    """The kernels of a codec for numbers of "float32" or "float64"."""
    return f"typedef {'double' if dtype == 'float64' else 'float'} real;\n{KERNELS[kernel]}"


@cache
def missing() -> str | None:
    """Why kernels cannot be used in this process; None where they can."""
    try:
        import cupy

        if not cupy.cuda.is_available():
            return "CuPy finds no device"
        import torch

        cupy.cuda.Stream.from_external(torch.cuda.current_stream())
        cupy.RawKernel('extern "C" __global__ void nothing() {}', "nothing").compile()
    except Exception as error:  # noqa: BLE001 (old, or without a driver or a compiler, CuPy raises errors of many kinds)
        return f"CuPy cannot be used here ({type(error).__name__}: {error})"
    return None


def serve(segment: Any) -> bool:
    """Whether there are kernels for what a CUDA tensor holds; what there are none for, the host takes or refuses."""
    return str(segment.dtype) in ("torch.float32", "torch.float64") and segment.is_contiguous()


@cache
def compiled(kernel: str, dtype: str, device: int) -> dict[str, Any]:
    """The kernels of a codec on a device, by name."""
    import cupy

    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=source(kernel, dtype), options=OPTIONS)
        return {name: module.get_function(name) for name in ("encode", "decode", "add")}


@final
class OnDevice:
    """Numbers that stay on the device. Kernels and copies run on a stream of their own, one after the other, beside backward."""

    def __init__(self, segment: Any, codec: Codec) -> None:
        import cupy
        import torch

        assert codec.kernel is not None
        self.path = "coded on the device, staged through pinned memory"
        self._segment, self._codec = segment.detach(), codec
        self.length, self.itemsize = self._segment.numel(), self._segment.element_size()
        self._device = self._segment.device
        self.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._cupy_device = cupy.cuda.Device(self.stream.device_index)
        self._cupy_stream = cupy.cuda.Stream.from_external(self.stream)
        self.kernels = compiled(codec.kernel, str(self._segment.dtype).removeprefix("torch."), self.stream.device_index)
        # every message passes through it, in the order of the stream
        self.narrow = torch.empty(codec.nbytes(self.length, self.itemsize), dtype=torch.uint8, device=self._device)
        self.stream.wait_stream(torch.cuda.current_stream(self._device))  # what had this memory before is done with it

    def coder(self, low: int, high: int, message: Array) -> DeviceCoder:
        """Of the numbers from one to another."""
        return DeviceCoder(self, self._segment[low:high], message)

    def sealed(self) -> Array:
        """Pinned."""
        return self.aside(self._codec.nbytes(self.length, self.itemsize))

    def aside(self, length: int) -> Array:
        """Pinned."""
        import torch

        memory: Array = torch.zeros(length, dtype=torch.uint8, pin_memory=True).numpy()
        return memory

    def fetching(self) -> tuple[Request, ...]:
        """What the rank has asked of the device so far."""
        import torch

        self.stream.wait_stream(torch.cuda.current_stream(self._device))
        return (Recorded(self.stream),)

    def storing(self) -> tuple[Request, ...]:
        """Nothing: what a coder has done is done."""
        return ()

    def launch(self, name: str, numbers: Any, *more: Any) -> None:
        """Start a kernel on `numbers` and the message in `narrow`."""
        length = numbers.numel()
        with self._cupy_device, self._cupy_stream:
            blocks = min(BLOCKS, -(-length // THREADS))
            self.kernels[name]((blocks,), (THREADS,), (numbers.data_ptr(), self.narrow.data_ptr(), length, *more))


@final
class DeviceCoder:
    """Numbers on the device and a pinned message on the host. What a method does is done when it returns: MPI may send
    the message, or receive another into its place.
    """

    __slots__ = ("_divisor", "_message", "_narrow", "_numbers", "_on", "_real", "message")

    def __init__(self, on: OnDevice, numbers: Any, message: Array) -> None:
        import torch

        self._on, self._numbers = on, numbers
        self.message, self._message = message, torch.from_numpy(message)
        self._narrow = on.narrow[: message.size]
        self._real: Any = np.float64 if on.itemsize == 8 else np.float32
        self._divisor = 1

    def encode(self) -> None:
        """Divide and write in one pass, then bring the message to the host."""
        if self.message.size:
            self._on.launch("encode", self._numbers, self._real(self._divisor))
            self._divisor = 1
            self._copy(self._message, self._narrow)
            self._on.stream.synchronize()

    def decode(self) -> None:
        """Bring the message to the device and widen it there."""
        self._read("decode")

    def add(self) -> None:
        """Bring the message to the device, and widen and add it in one pass."""
        self._read("add")

    def divide(self, divisor: int) -> None:
        """In the pass of the next `encode`."""
        self._divisor *= divisor

    def _read(self, name: str) -> None:
        if self.message.size:
            self._copy(self._narrow, self._message)
            self._on.launch(name, self._numbers)
            self._on.stream.synchronize()

    def _copy(self, target: Any, source: Any) -> None:
        import torch

        with torch.cuda.stream(self._on.stream):
            target.copy_(source, non_blocking=True)
