"""The kernels, bit for bit beside the coders of the host: on a device where there is one, and their text as it stands on this processor."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.laws import inputs
from workbench.collectives import Collective, HalvingDoubling, Ring, base
from workbench.comm.virtual import VirtualCommunicator, VirtualWorld
from workbench.wires import WIRES, Codec
from workbench.wires import kernels as device
from workbench.wires.base import Coder
from workbench.wires.numbers import OnHost, numbers

HOST = Path(__file__).with_name("host.h")
CODED = {name: wire() for name, wire in WIRES.items() if issubclass(wire, Codec) and wire.kernel is not None}

CALLS = """
struct Message { void *memory; template <typename T> operator T *() const { return (T *)memory; } };
extern "C" void run_encode(real *x, void *m, long long n, real d) { launch([=] { encode(x, Message{m}, n, d); }); }
extern "C" void run_decode(real *x, void *m, long long n) { launch([=] { decode(x, Message{m}, n); }); }
extern "C" void run_add(real *x, void *m, long long n) { launch([=] { add(x, Message{m}, n); }); }
"""


class Emulated:
    """A coder that calls the kernels as this processor runs them."""

    def __init__(self, library: ctypes.CDLL, array: np.ndarray, message: np.ndarray) -> None:
        self.library, self.array, self.message = library, array, message
        self.divisor = 1

    def call(self, name: str, *more: Any) -> None:
        run(self.library, name, (self.array.ctypes.data, self.message.ctypes.data, len(self.array), *more))

    def encode(self) -> None:
        self.call("encode", self.array.dtype.type(self.divisor))
        self.divisor = 1

    def decode(self) -> None:
        self.call("decode")

    def add(self) -> None:
        self.call("add")

    def divide(self, divisor: int) -> None:
        self.divisor = divisor


def run(library: ctypes.CDLL, name: str, arguments: tuple[Any, ...]) -> None:
    """Call a kernel with what CuPy is given: addresses and whole numbers of 64 bits, and reals of their own width."""
    reals = {np.float32: ctypes.c_float, np.float64: ctypes.c_double}
    getattr(library, f"run_{name}")(*(reals.get(type(each), ctypes.c_longlong)(each) for each in arguments))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ctypes.CDLL]:
    """The text of kernels, compiled for this processor."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here, which runs the text of the kernels on this processor")
    folder = tmp_path_factory.mktemp("kernels")

    @cache
    def built(text: str) -> ctypes.CDLL:
        number = len(list(folder.iterdir()))
        source, shared = folder / f"{number}.cpp", folder / f"{number}.so"
        source.write_text(f'#include "{HOST}"\n{text.replace(device.HALVES, "")}{CALLS}')
        options = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o"]
        subprocess.run(["g++", *options, shared, source], check=True, capture_output=True)
        return ctypes.CDLL(str(shared))

    return built


Made = Callable[[Codec, np.ndarray, np.ndarray], tuple[Coder, Callable[[], np.ndarray]]]
"""(codec, numbers, message) -> a coder with copies of both, and what reads its numbers."""


@pytest.fixture(scope="module", params=["this processor", pytest.param("device", marks=pytest.mark.gpu)])
def made(request: pytest.FixtureRequest) -> Made:
    def emulated(codec: Codec, array: np.ndarray, message: np.ndarray) -> tuple[Coder, Callable[[], np.ndarray]]:
        text = device.source(str(codec.kernel), str(array.dtype))
        coder = Emulated(request.getfixturevalue("library")(text), array.copy(), message.copy())
        return coder, lambda: coder.array

    def on_device(codec: Codec, array: np.ndarray, message: np.ndarray) -> tuple[Coder, Callable[[], np.ndarray]]:
        tensor = torch.from_numpy(array).cuda()
        on = device.OnDevice(tensor, codec)
        pinned = on.aside(len(message))
        pinned[:] = message

        def read() -> np.ndarray:
            on.stream.synchronize()
            return tensor.cpu().numpy()

        return on.coder(0, len(array), pinned), read

    if request.param == "device":
        reason = device.missing() if torch.cuda.is_available() else "no CUDA device here (torch.cuda.is_available() is False)"
        if reason is not None:
            pytest.skip(reason)
        return on_device
    return emulated


def adversarial(dtype: str) -> np.ndarray:
    """What formats differ on: ties, edges of every range, denormals, infinities, no numbers, signed zeros; blocks of one kind; any bits."""
    random = np.random.default_rng(3)
    edges = [
        0.0,
        65504,
        65519.996,
        65520,
        2.0**-24,
        2.0**-25,
        1.5 * 2.0**-24,
        2.0**-14,
        2.0**-133,
        2.0**-149,
        3.4e38,
        1 + 2.0**-11,
        1 + 3 * 2.0**-11,
        np.inf,
    ]
    values = np.array([*edges, *np.negative(edges), np.nan, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1.0, 127.0, 0.5, 1.5, 2.5, -0.5, -126.5], dtype)
    blocks = [
        random.choice(values, 256),  # everything in one block
        np.zeros(256),
        np.full(256, 2.0**-149),
        np.arange(-128, 128) / 2,  # ties of int8, scale a half of 64/127
        np.append(np.arange(255) - 127.5, 127.0),
        np.append(random.standard_normal(255), np.inf),
        np.append(random.standard_normal(255), np.nan),
        random.standard_normal(256) * 3e38,
        random.standard_normal(2000) * 10.0 ** random.integers(-40, 38, 2000),
        random.integers(0, 1 << 32, 3000, dtype=np.uint32).view(np.float32),
    ]
    with np.errstate(all="ignore"):
        flat = np.concatenate([np.asarray(block).astype(dtype) for block in blocks] + [np.tile(values, 8), random.standard_normal(101).astype(dtype)])
    assert flat.size % 256
    return flat


def same(one: np.ndarray, other: np.ndarray) -> None:
    """The same bits, but for the bits of what is no number."""
    bits = f"u{one.itemsize}"
    numbers = ~(np.isnan(one) & np.isnan(other))
    np.testing.assert_array_equal(one.view(bits)[numbers], other.view(bits)[numbers])


def read(codec: Codec, message: np.ndarray, length: int) -> np.ndarray:
    """What a message says to the host."""
    said = np.zeros(length, np.float32)
    codec.coder(said, message).decode()
    return said


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("divisor", [1, 3])
def test_messages_have_the_bits_of_the_host(made: Made, name: str, dtype: str, divisor: int) -> None:
    codec, array = CODED[name], adversarial(dtype)
    message = np.zeros(codec.nbytes(array.size, array.itemsize), np.uint8)
    coder, now = made(codec, array, message)
    theirs = codec.coder(expected := array.copy(), message)
    for each in (coder, theirs):
        each.divide(divisor)
        each.encode()
    same(now(), expected)
    same(read(codec, coder.message, array.size), read(codec, message, array.size))
    if name == "int8":
        finite = np.isfinite(read(codec, message, array.size))
        assert finite.any()
        codes, known = (
            np.append(m, np.zeros(-m.size % 260, np.uint8)).reshape(-1, 260)[:, 4:].ravel()[: array.size] for m in (coder.message, message)
        )
        np.testing.assert_array_equal(codes, known)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("verb", ["decode", "add"])
def test_what_a_message_says_has_the_bits_of_the_host(made: Made, name: str, dtype: str, verb: str) -> None:
    codec, array = CODED[name], adversarial(dtype)
    if name == "int8":  # codes of every scale that an encoder writes
        message = np.zeros(codec.nbytes(array.size, array.itemsize), np.uint8)
        codec.coder(np.roll(array, 77), message).encode()
    else:  # all bits that there are
        array = np.resize(array, 1 << 16)
        message = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    coder, now = made(codec, array, message)
    theirs = codec.coder(expected := array.copy(), message)
    for each in (coder, theirs):
        getattr(each, verb)()
    same(now(), expected)


@pytest.fixture
def stand_in(library: Callable[[str], ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray, Codec], device.OnDevice]:
    """Numbers on a device that is not there: torch's streams do at once what they are told, CuPy's kernels run here."""
    stream = SimpleNamespace(device_index=0, wait_stream=lambda other: None, synchronize=lambda: None)

    def kernels(code: str, options: tuple[str, ...]) -> SimpleNamespace:
        return SimpleNamespace(get_function=lambda name: lambda grid, block, arguments: run(library(code), name, arguments))

    streams = SimpleNamespace(from_external=lambda other: nullcontext())
    monkeypatch.setitem(
        sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(Device=lambda index: nullcontext(), Stream=streams), RawModule=kernels)
    )
    monkeypatch.setattr(torch.cuda, "Stream", lambda where: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda where: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda which: nullcontext())
    monkeypatch.setattr(device, "compiled", device.compiled.__wrapped__)
    monkeypatch.setattr(device.OnDevice, "aside", lambda self, length: np.zeros(length, np.uint8))
    monkeypatch.setattr(device.OnDevice, "fetching", lambda self: ())  # virtual ranks wait for nothing but messages
    return lambda array, codec: device.OnDevice(torch.from_numpy(array), codec)


@pytest.mark.parametrize("collective", [Ring(), HalvingDoubling()], ids=str)
@pytest.mark.parametrize("name", CODED)
def test_plans_of_a_device_leave_the_bits_of_the_host(
    stand_in: Callable[[np.ndarray, Codec], device.OnDevice], monkeypatch: pytest.MonkeyPatch, collective: Collective, name: str
) -> None:
    def means(comm: VirtualCommunicator) -> np.ndarray:
        buffer = inputs(comm.rank, 1023)
        plan = collective.plan(comm, buffer, CODED[name])
        for _ in range(2):
            buffer *= comm.rank + 1
            plan.run()
        return buffer

    on_host = VirtualWorld(3 if collective == Ring() else 4).run(means)
    monkeypatch.setattr(base, "numbers", stand_in)
    on_device = VirtualWorld(len(on_host)).run(means)
    for host, other in zip(on_host, on_device, strict=True):
        same(other, host)


def test_numbers_of_the_host_are_coded_on_the_host() -> None:
    for codec in CODED.values():
        for segment in (np.zeros(3, np.float32), torch.zeros(3)):
            assert isinstance(numbers(segment, codec), OnHost)
    paths = VirtualWorld(2).run(lambda comm: Ring().plan(comm, torch.zeros(3), "float16").path)
    assert paths == ["host", "host"]


@pytest.mark.parametrize(
    ("segment", "served"),
    [
        (torch.zeros(4), True),
        (torch.zeros(4).double(), True),
        (torch.zeros(4).half(), False),
        (torch.zeros(4).int(), False),
        (torch.zeros(4, 2)[:, 0], False),
    ],
)
def test_kernels_serve_contiguous_reals(segment: torch.Tensor, served: bool) -> None:
    assert device.serve(segment) == served


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here, which compiles for GPUs without one")
@pytest.mark.parametrize("kernel", device.KERNELS)
def test_kernels_compile_for_a_gpu(tmp_path: Path, kernel: str) -> None:
    (tmp_path / "kernels.cu").write_text(device.source(kernel, "float32"))
    done = subprocess.run(["nvcc", "-cubin", *device.OPTIONS, "kernels.cu"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_kernel_has_a_codec_and_every_codec_its_kernel() -> None:
    assert {codec.kernel for codec in CODED.values()} == set(device.KERNELS)


def test_without_cupy_the_reason_is_told() -> None:
    reason = device.missing()
    assert reason is None or "CuPy" in reason
