"""Updates of a centre per second: three workers that bring gradients as fast as they can, and a server; in turn with the same by hand.

By hand is what a careful person writes with mpi4py: the same messages, the same polite wait, the same arithmetic, and nothing else.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from mpi4py import MPI

from workbench.benchmarks.figures import Figure, tell, turns
from workbench.comm.mpi import LONGEST_NAP, NAP_SECONDS, PATIENCE, SPIN_SECONDS, MpiCommunicator

if TYPE_CHECKING:
    from workbench.strategies import Worker

SIDE: Final = 512
"""Of the layer that is the model: 1 MiB."""
RATE: Final = 0.01
WORD, CONTENT, ANSWER, READ, DONE = range(5)  # tags


def main() -> None:
    """On each of four ranks."""
    from workbench.strategies import ParameterServer

    world, quick = MPI.COMM_WORLD, "--quick" in sys.argv
    rounds, updates = (3, 60) if quick else (15, 400)
    comm, bare, workers = MpiCommunicator(world.Dup()), world.Dup(), world.size - 1
    worker, recorder = live(comm, workers)

    def seconds(run: Callable[[], Callable[[], None]]) -> float:
        """Of a block, on the rank that takes longest; all begin together, with every buffer that they need."""
        begin = run()
        world.Barrier()
        start = time.perf_counter()
        begin()
        return float(world.allreduce(time.perf_counter() - start, MPI.MAX))

    def ours() -> Callable[[], None]:
        strategy = ParameterServer()
        if comm.rank == workers:
            server = strategy.serving(comm, worker)

            def serve() -> None:
                for update in server.serve():
                    recorder.served(update)

            return serve
        exchange = strategy.exchange(comm, worker)

        def bring() -> None:
            for _ in range(updates):
                exchange.update()
                exchange.after_update()
                worker.step += 1
            exchange.finish()

        return bring

    def by_hand() -> Callable[[], None]:
        return serving(bare, worker.arena.state) if bare.rank == workers else bringing(bare, worker, updates)

    here, hand, again = turns(rounds, lambda: seconds(ours), lambda: seconds(by_hand), lambda: seconds(by_hand))
    if world.rank == 0:
        applied = updates * workers
        detail = f"workbench {applied / median(here):.0f}, by hand {applied / median(hand):.0f} updates/s; A/A {median(hand) / median(again):.2f}"
        what = f"{workers} workers, 1 server, 1 MiB: applied updates/s over mpi4py by hand"
        # ratios within a round, since the speed of a machine drifts from one to the next
        tell([Figure.at_least(what, median(other / one for one, other in zip(here, hand, strict=True)), 0.9, "x", detail)])


def live(comm: MpiCommunicator, workers: int) -> tuple[Worker, Any]:
    """A rank as a run has it, as far as its exchanges and records go."""
    from torch import nn

    from workbench.arena import Arena
    from workbench.recipes.sgd import SGD
    from workbench.strategies import Worker
    from workbench.training.journal import Journal
    from workbench.training.recorder import Recorder

    arena = Arena(nn.Linear(SIDE, SIDE, bias=False))
    arena.gradients.fill_(1e-3)
    worker = Worker(arena, arena.module, SGD(momentum=0.0), 1, lambda: RATE, np.random.default_rng(0), comm.rank % workers, workers)
    journal = Journal(f"rank-{comm.rank:05d}.0", Path(tempfile.gettempdir()))
    return worker, Recorder(journal, comm.rank, comm, comm.now())


def politely(done: Callable[[], Any]) -> None:
    """Ask, shortly without sleeping, then with naps that grow."""
    started = time.perf_counter()
    while not done():
        waited = time.perf_counter() - started
        if waited > SPIN_SECONDS:
            time.sleep(min(max(NAP_SECONDS, waited / PATIENCE), LONGEST_NAP))
        else:
            os.sched_yield()


def bringing(comm: MPI.Intracomm, worker: Worker, updates: int) -> Callable[[], None]:
    """A worker by hand: gradients go out of where they are, parameters come to where they belong."""
    server, word, read = comm.size - 1, np.zeros(3), np.zeros(2, np.int64)
    gradients, state, bye = worker.arena.gradients.numpy(), worker.arena.state.numpy(), np.zeros(1, np.uint8)

    def run() -> None:
        for step in range(updates + 1):
            if step < updates:
                word[:] = step, read[0], RATE
                sending = [comm.Isend(word, server, WORD), comm.Isend(gradients, server, CONTENT)]
            else:
                sending = [comm.Isend(bye, server, DONE)]
            requests = [comm.Irecv(state, server, ANSWER), comm.Irecv(read, server, READ), *sending]
            politely(lambda requests=requests: MPI.Request.Testall(requests))  # type: ignore[misc]

    return run


def serving(comm: MPI.Intracomm, state: Any) -> Callable[[], None]:
    """The server by hand."""
    workers = comm.size - 1
    numbers, word = state.numpy(), np.zeros(3)
    content = state.new_zeros(state.shape)
    copies = [(np.zeros_like(numbers), np.zeros(2, np.int64)) for _ in range(workers)]

    def run() -> None:
        sending: dict[int, list[MPI.Request]] = {}
        version, status = 0, MPI.Status()

        def answer(worker: int, staleness: int) -> None:
            copy, read = copies[worker]
            politely(lambda: MPI.Request.Testall(sending.get(worker, [])))
            np.copyto(copy, numbers)
            read[:] = version, staleness
            sending[worker] = [comm.Isend(copy, worker, ANSWER), comm.Isend(read, worker, READ)]

        left = 0
        waiting = [comm.Irecv(word, MPI.ANY_SOURCE, WORD), *(comm.Irecv(np.zeros(1, np.uint8), worker, DONE) for worker in range(workers))]
        while left < workers:
            found: list[int] = []

            def come(found: list[int] = found) -> bool:
                index, flag = MPI.Request.Testany(waiting, status)
                found.append(index)
                return bool(flag)

            politely(come)
            if found[-1] > 0:
                left += 1
                continue
            worker, (_, read, rate) = status.Get_source(), word.tolist()
            waiting[0] = comm.Irecv(word, MPI.ANY_SOURCE, WORD)
            receiving = comm.Irecv(content.numpy(), worker, CONTENT)
            politely(receiving.Test)
            state.add_(content, alpha=-rate)
            version += 1
            answer(worker, version - 1 - int(read))
        waiting[0].Cancel()
        waiting[0].Wait()
        for worker in range(workers):
            answer(worker, 0)
        for requests in sending.values():
            politely(lambda requests=requests: MPI.Request.Testall(requests))  # type: ignore[misc]

    return run


if __name__ == "__main__":
    main()
