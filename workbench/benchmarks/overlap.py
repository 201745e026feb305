"""Exchanges hidden behind backward: two ranks and a model of 11 MB, behind an emulated link, and beside DDP on the links that there are.

Any launcher may start it: `mpiexec -n 2 python -m workbench.benchmarks.overlap` measures on the network between those ranks, `--network 1G`
behind an emulated one. DDP takes part where `MASTER_ADDR` and `MASTER_PORT` say where gloo's ranks meet, and never on an emulated
link, which only the workbench's own messages go through.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from workbench.benchmarks.figures import Figure, tell, turns
from workbench.benchmarks.ranks import told
from workbench.comm.network import Network

if TYPE_CHECKING:
    from workbench.job import Job
    from workbench.strategies import Strategy

RANKS: Final = 2
BUCKET_BYTES: Final = (1 << 19, 1 << 20, 1 << 22)
DDP_MEGABYTES: Final = (1, 4, 25)
"""Bucket sizes of DDP: small ones overlap well, 25 is its default."""
HIDDEN: Final = 60.0


def measure(quick: bool = False, network: str = "1G") -> list[Figure]:
    """Share of the exchange that overlap hides behind emulated links, and samples per second beside DDP without emulation."""
    Network.of(network)
    words = ["--quick"] if quick else []
    figures = []
    for more in (["--network", network], []):
        figures += [Figure(**line) for line in told(RANKS, "workbench.benchmarks.overlap", *words, *more, silence=600.0)]
    return figures


def main() -> None:
    """On each rank."""
    from mpi4py import MPI

    from workbench.benchmarks.loops import BenchLoop, PlainLoop

    words = argparse.ArgumentParser()
    words.add_argument("--network", help="emulate the links of this preset; the network that is there without it")
    words.add_argument("--quick", action="store_true")
    given = words.parse_args()
    world, steps, rounds = MPI.COMM_WORLD, 2, 3 if given.quick else 11
    network = Network.of(given.network) if given.network is not None else None
    where = f"{world.size} ranks, {given.network or 'no emulation'}"
    buckets = BUCKET_BYTES[1:2] if given.quick else BUCKET_BYTES

    def together(run: Callable[[int], float]) -> Callable[[], float]:
        def block() -> float:
            world.Barrier()
            return float(world.allreduce(run(steps), MPI.MAX)) / steps

        return block

    def backward() -> float:
        plain.run(steps)
        return float(world.allreduce(plain.backward_seconds, MPI.MAX)) / steps

    plain = PlainLoop(job_of(alone()))
    loops = {"none": BenchLoop(job_of(alone())), "none again": BenchLoop(job_of(alone()))}
    for nbytes in buckets:
        for overlap in (False, True):
            loops[f"{overlap} {nbytes}"] = BenchLoop(job_of(averaging(nbytes, overlap)), network)
    ddp = {} if network is not None else ddp_loops(world, given.quick)
    names = [*loops, *ddp, "backward"]
    blocks = [*(together(loop.run) for loop in (*loops.values(), *ddp.values())), backward]
    seconds = dict(zip(names, turns(rounds, *blocks), strict=True))
    for loop in loops.values():
        loop.close()
    if world.rank == 0:
        tell([*(hidden(where, nbytes, seconds, network) for nbytes in buckets), *beside_ddp(where, buckets, ddp, seconds, world.size)])
    if ddp:
        from torch import distributed

        distributed.destroy_process_group()


def hidden(where: str, nbytes: int, seconds: dict[str, list[float]], network: Network | None) -> Figure:
    """What overlap saves of what it could: the exchange, or backward where that is shorter. The target is that of an emulated link.

    A share above 100 % says that the machine is too busy to measure it, and so does an A/A (the loop without exchange beside itself)
    that is no small part of what is compared. Without emulation the exchange is a few milliseconds of work for the same cores,
    and there is little to hide.
    """
    none, again, without, overlapped = (np.array(seconds[name]) for name in ("none", "none again", f"False {nbytes}", f"True {nbytes}"))
    # differences within a round, since the speed of a machine drifts from one to the next
    saved, cost, noise = (float(np.median(difference)) for difference in (without - overlapped, without - none, again - none))
    backward = median(seconds["backward"])
    coverable = min(cost, backward)
    share = 100 * saved / coverable if coverable > 0 else float("nan")
    detail = f"step without exchange {1e3 * np.median(none):.1f}, without overlap {1e3 * cost:+.1f}, of which it saves {1e3 * saved:.1f}"
    detail += f"; backward {1e3 * backward:.1f}; A/A {1e3 * noise:+.1f} ms"
    what = f"{where}, buckets of {nbytes / (1 << 20):g} MiB: exchange hidden behind backward"
    return Figure(what, share, "%", detail=detail) if network is None else Figure.at_least(what, share, HIDDEN, "%", detail)


def beside_ddp(where: str, buckets: tuple[int, ...], ddp: dict[str, Any], seconds: dict[str, list[float]], ranks: int) -> list[Figure]:
    """Samples per second with the best bucket of each, in one figure."""
    if not ddp:
        return []

    def rate(name: str) -> float:
        return ranks * BATCH / median(seconds[name])

    ours = {
        f"{'overlap' if overlap else 'plain'} {nbytes / (1 << 20):g} MiB": rate(f"{overlap} {nbytes}")
        for nbytes in buckets
        for overlap in (True, False)
    }
    theirs = {name: rate(name) for name in ddp}
    detail = "; ".join(", ".join(f"{name} {value:.1f}" for name, value in each.items()) for each in (ours, theirs)) + " samples/s"
    return [Figure(f"{where}: samples/s over DDP with gloo, the best bucket of each", max(ours.values()) / max(theirs.values()), "x", detail=detail)]


BATCH: Final = 8


def job_of(strategy: Strategy) -> Job:
    """A residual network of 2.8 million parameters, 11 MB, whose last stage holds three quarters of them, as in larger ones."""
    from workbench.job import Job

    options = {"width": 52}
    return Job(model="resnet20", model_options=options, data="synthetic-images", batch_size=BATCH, steps=10**9, strategy=strategy)


def averaging(nbytes: int, overlap: bool) -> Strategy:
    """Gradients averaged around a ring, in buckets."""
    from workbench.strategies import Synchronous

    return Synchronous(overlap=overlap, bucket_bytes=nbytes)


def alone() -> Strategy:
    """No exchange: the first average would come after more steps than are made."""
    from workbench.strategies import Synchronous

    return Synchronous(average="parameters", every=10**9)


def ddp_loops(world: Any, quick: bool) -> dict[str, Any]:
    """Collective. The plain loop under DDP, by bucket size; none where nothing says where its ranks meet."""
    if "MASTER_ADDR" not in os.environ:
        return {}
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from workbench.benchmarks.loops import PlainLoop

    distributed.init_process_group("gloo", rank=world.rank, world_size=world.size)

    def wrapped(megabytes: int) -> Any:
        return PlainLoop(job_of(alone()), lambda module: DistributedDataParallel(module, bucket_cap_mb=megabytes, gradient_as_bucket_view=True))

    return {f"DDP {megabytes} MiB": wrapped(megabytes) for megabytes in (DDP_MEGABYTES[:1] if quick else DDP_MEGABYTES)}


if __name__ == "__main__":
    main()
