"""What holds for every compressor: the same bits, the bytes and seconds that it declares, training that arrives."""

from __future__ import annotations

from math import isqrt
from pathlib import Path

import numpy as np
import pytest

from workbench import Device, Job, VirtualCluster
from workbench.collectives import PORTABLE, CentralServer, Native, Ring
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.store import read_table
from workbench.strategies import Synchronous
from workbench.wires import WIRES, Compressor, PowerSGD, TopK

NETWORK = Network(latency=1e-5, bandwidth=1e8)
COMPRESSORS = [wire() for wire in WIRES.values() if issubclass(wire, Compressor)] + [TopK(density=0.3, correction=False), PowerSGD(rank=1)]
PAIRS = [(collective(), wire) for collective in PORTABLE.values() for wire in COMPRESSORS if wire.only_with in ("", collective.__name__)]
LENGTHS = (0, 1, 2, 5, 64, 1003)


def shapes_of(length: int) -> list[tuple[int, ...]]:
    """A square matrix, and a vector of what is over."""
    side = isqrt(length)
    return [(side, side), (length - side * side,)]


def gradient(rank: int, turn: int, length: int) -> np.ndarray:
    return np.random.default_rng([rank, turn, length]).standard_normal(length).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("collective", "wire"), PAIRS, ids=str)
def test_all_ranks_end_with_the_same_bits_and_send_what_is_declared(collective, wire: Compressor, size: int) -> None:
    try:
        collective.check(size)
    except ValueError:
        return

    def body(comm: Communicator) -> list[tuple[bytes, int]]:
        results = []
        for length in LENGTHS:
            for shapes in ([], shapes_of(length)):
                buffer = np.zeros(length, np.float32)
                plan = collective.plan(comm, buffer, wire, shapes, momentum=lambda: 0.9)
                for turn in range(3):
                    before = comm.traffic.total_sent_bytes
                    buffer[:] = gradient(comm.rank, turn, length)
                    plan.run()
                    results.append((buffer.tobytes(), comm.traffic.total_sent_bytes - before))
        return results

    ranks = VirtualWorld(size, NETWORK).run(body)
    declared = [wire.bytes_sent(length, size, collective, shapes) for length in LENGTHS for shapes in ([], shapes_of(length)) for _turn in range(3)]
    for exchange, expected in zip(zip(*ranks, strict=True), declared, strict=True):
        assert len({bits for bits, _ in exchange}) == 1
        assert sum(sent for _, sent in exchange) == expected


@pytest.mark.parametrize(("collective", "wire"), PAIRS, ids=str)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("shapes", [[(64, 128), (512,)], []], ids=["shapes", "no shapes"])
def test_the_virtual_clock_shows_what_the_formula_says(collective, wire: Compressor, size: int, shapes: list[tuple[int, ...]]) -> None:
    length = 64 * 128 + 512

    def body(comm: Communicator) -> float:
        plan = collective.plan(comm, np.ones(length, np.float32), wire, shapes)
        start = comm.now()
        plan.run()
        return comm.now() - start

    try:
        collective.check(size)
    except ValueError:
        return
    seconds, declared = max(VirtualWorld(size, NETWORK).run(body)), wire.seconds(length, size, NETWORK, collective, shapes)
    if isinstance(collective, CentralServer) and isinstance(wire, PowerSGD) and size > 1:  # its two averages overlap, as the formula's words say
        declared -= (size - 2) * 4 * wire.lengths(length, shapes)[0] / NETWORK.bandwidth
    assert seconds == pytest.approx(declared, rel=0.01, abs=1e-12)


@pytest.mark.parametrize("wire", [TopK(), PowerSGD()], ids=str)
def test_they_send_less(wire: Compressor) -> None:
    length = 512 * 512
    assert wire.bytes_sent(length, 4, Ring(), [(512, 512)]) < 0.5 * Ring().bytes_sent(4 * length, 4)
    assert wire.seconds(length, 4, NETWORK, Ring(), [(512, 512)]) < 0.5 * Ring().seconds(4 * length, 4, NETWORK)


@pytest.mark.parametrize("wire", COMPRESSORS, ids=str)
def test_one_rank_alone_loses_nothing(wire: Compressor) -> None:
    def body(comm: Communicator) -> None:
        buffer = gradient(0, 0, 64)
        plan = Ring().plan(comm, buffer, wire, [(8, 8)], momentum=lambda: 0.9)
        plan.run()
        assert np.array_equal(buffer, gradient(0, 0, 64))
        assert not plan.gathers_momentum, "the optimizer must do it"

    VirtualWorld(1, NETWORK).run(body)


@pytest.mark.parametrize("wire", COMPRESSORS, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_has_diverged_shows_on_every_rank(wire: Compressor, bad: float) -> None:
    def body(comm: Communicator) -> bool:
        buffer = gradient(comm.rank, 0, 64)
        if comm.rank == 1:
            buffer[9] = bad
        Ring().plan(comm, buffer, wire, [(8, 8)]).run()
        return bool(np.isfinite(buffer).all())

    assert VirtualWorld(3, NETWORK).run(body) == [False] * 3


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory):
    device = Device(seconds_per_sample=1e-4, seconds_per_update=1e-3)
    with VirtualCluster(4, device=device, folder=tmp_path_factory.mktemp("runs")) as cluster:
        yield cluster


@pytest.mark.parametrize("wire", COMPRESSORS[:3], ids=str)
@pytest.mark.parametrize("options", [{}, {"overlap": True, "bucket_bytes": 4000}], ids=["at once", "overlapped"])
def test_the_digits_are_learned(four: VirtualCluster, wire: Compressor, options: dict[str, object]) -> None:
    run = four.train(Job(model="mlp", data="digits", epochs=12, batch_size=16, strategy=Synchronous(wire=wire, **options))).wait(60)
    assert read_table(Path(run.folder), "validation")["accuracy"][-1] >= 0.95


def test_words_for_bad_choices() -> None:
    with pytest.raises(ValueError, match=r"TopK\(density=0\): density must be a number in \(0, 1\], got 0"):
        TopK(density=0)
    with pytest.raises(ValueError, match=r"TopK\(correction='yes'\): correction must be True or False, got 'yes'"):
        TopK(correction="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"PowerSGD\(rank=0\): rank must be a whole number of at least 1, got 0"):
        PowerSGD(rank=0)
    with pytest.raises(
        ValueError, match=r"Synchronous\(wire=TopK\(.*\) brings its own all-gather around a ring; collective must be Ring\(\), got Native"
    ):
        Synchronous(collective=Native(), wire="top-k")
    for wire in ("top-k", "power-sgd"):
        with pytest.raises(ValueError, match=r"Synchronous\(wire=.*\): .* parameters do not survive; give average='gradients'"):
            Synchronous(average="parameters", wire=wire)

    def body(comm: Communicator) -> None:
        with pytest.raises(ValueError, match=r"shapes must be those of 10 numbers, got \[\(3, 3\)\] of 9"):
            Ring().plan(comm, np.zeros(10, np.float32), PowerSGD(), [(3, 3)])

    VirtualWorld(2, NETWORK).run(body)


def test_a_job_keeps_its_compressor() -> None:
    for wire in COMPRESSORS:
        job = Job(strategy=Synchronous(wire=wire))
        assert Job.from_json(job.to_json()) == job
