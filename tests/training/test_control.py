"""Steering: agreed in lockstep, on arrival elsewhere; a pause sleeps, a step counts, an abort does not wait."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.errors import Aborted
from workbench.recipes.sgd import SGD
from workbench.training.control import Control, Inbox


@dataclass
class Recorder:
    """Takes down the events that a control would record."""

    told: list[tuple[str, int]] = field(default_factory=list)
    restarts: int = 0

    def event(self, kind: str, step: int, **what: Any) -> None:
        self.told.append((kind, step))

    def restart(self) -> None:
        self.restarts += 1


def play(inboxes: list[Inbox], steps: int, lockstep: bool = True, period: int = 1, feed: Any = None) -> list[tuple[int, Recorder, Control]]:
    """Ranks that do nothing but ask whether to go on; `feed(rank, step)` may put commands into inboxes in the middle."""

    def body(comm: Communicator) -> tuple[int, Recorder, Control]:
        recorder = Recorder()
        optimizer = object.__new__(SGD)
        control = Control(inboxes[comm.rank], comm, lockstep, period, recorder, optimizer, 0.1)  # type: ignore[arg-type]
        step = 0
        while step < steps and control.go_on(step):
            if feed is not None:
                feed(comm.rank, step)
            comm.compute(1e-3 * (1 + comm.rank))
            step += 1
        control.close()
        return step, recorder, control

    return VirtualWorld(len(inboxes), Network()).run(body)


@pytest.mark.parametrize("period", [1, 3, 4])
def test_ranks_that_hear_of_it_at_different_steps_obey_at_the_same(period: int) -> None:
    inboxes = [Inbox() for _ in range(4)]

    def feed(rank: int, step: int) -> None:
        if step == 2 + 2 * rank:  # rank 0 hears first, rank 3 six steps later
            inboxes[rank].put(1, "change", {"learning_rate": 0.5})
        if step == 14 + rank:
            inboxes[rank].put(2, "stop")

    done = play(inboxes, 60, period=period, feed=feed)
    assert len({steps for steps, _, _ in done}) == 1
    assert done[0][0] < 60
    for _, recorder, control in done:
        assert recorder.told == done[0][1].told
        assert recorder.told[0][0] == "change"
        assert recorder.told[0][1] >= 8
        assert recorder.told[0][1] % period == 0
        assert control.learning_rate == 0.5


def test_without_lockstep_each_obeys_on_arrival() -> None:
    inboxes = [Inbox() for _ in range(3)]

    def feed(rank: int, step: int) -> None:
        if step == 5 + 3 * rank:
            inboxes[rank].put(1, "stop")

    assert [steps for steps, _, _ in play(inboxes, 60, lockstep=False, feed=feed)] == [6, 9, 12]


@pytest.mark.parametrize("lockstep", [True, False])
def test_pause_step_and_resume(lockstep: bool) -> None:
    inboxes = [Inbox() for _ in range(2)]
    for inbox in inboxes:
        inbox.put(1, "pause")

    def command() -> None:
        for number, verb, options in ((2, "step", {"count": 3}), (3, "change", {"momentum": 0.5}), (4, "resume", {}), (5, "stop", {})):
            time.sleep(0.2)
            for inbox in inboxes:
                inbox.put(number, verb, options)

    commanding = threading.Thread(target=command)
    commanding.start()
    done = play(inboxes, 10**6, lockstep=lockstep, feed=lambda rank, step: time.sleep(1e-4))
    commanding.join()
    for _, recorder, control in done:
        kinds = [kind for kind, _ in recorder.told]
        # the step command resumes, three steps later the run pauses by itself, and while it rests it can be changed
        assert kinds == ["pause", "resume", "pause", "change", "resume", "stop"]
        assert recorder.told[2][1] == recorder.told[1][1] + 3 == recorder.told[4][1]
        assert recorder.restarts >= 2, "time spent pausing belongs to no step"
        assert control.optimizer.momentum == 0.5
    if lockstep:
        assert done[0][1].told == done[1][1].told


def test_abort_wakes_a_pause_at_once() -> None:
    inbox = Inbox()
    inbox.put(1, "pause")
    threading.Timer(0.1, inbox.put, (2, "abort")).start()
    began = time.perf_counter()
    with pytest.raises(Aborted):
        play([inbox], 10)
    assert time.perf_counter() - began < 5


def test_an_inbox_keeps_order_and_passes_over_what_it_has_seen() -> None:
    inbox = Inbox()
    for number in (1, 2, 2, 5, 4):
        inbox.put(number, "pause")
    assert [command.number for command in inbox.between(0, 10)] == [1, 2, 5]
    assert [command.number for command in inbox.between(1, 2)] == [2]
    assert not inbox.wait(newer_than=5, seconds=0.01)
    assert np.int64(inbox.newest) == 5
