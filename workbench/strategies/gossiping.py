"""One rank that gossips: it hears whoever talks to it, talks to one peer now and then, and waits for nobody. Common to all modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from workbench.comm.base import ANY, Communicator, Request
from workbench.comm.staging import Staged
from workbench.strategies.base import Exchange, Worker
from workbench.strategies.topologies import Neighbours

if TYPE_CHECKING:
    from workbench.strategies.gossip import Gossip

WORD, MODEL, REPLY, BACK = range(4)  # tags; a word is (the step of who says it, a number of the mode's own)

SPARES = 4
"""Copies of a model that are kept for later."""

Then = Callable[[Request], None]


class Gossiping(Exchange):
    """What this rank expects, and what it does about each thing once it has come. A mode says what it does when it `talk`s and has `heard`.

    A peer that has died (`comm.lost`) is not talked to again, and what was under way with it is forgotten.
    """

    def __init__(self, strategy: Gossip, comm: Communicator, worker: Worker) -> None:
        super().__init__(comm, worker)
        self.every, self.probability, self.patience = strategy.every, strategy.probability, strategy.patience_seconds
        self.neighbours = Neighbours(strategy.topology, comm.rank, comm.size)
        self.ended = False
        """Whether this rank will take no further step."""
        self._then: dict[Request, Then] = {}
        self._copies: list[Staged] = []
        self._word = np.zeros(2)
        self._listen()

    # -- a mode's own ----------------------------------------------------------------------------------------------

    def talk(self, peer: int, until: float) -> None:
        """Ask or push, unless what was begun before is still under way at `until` (with `patient`)."""
        raise NotImplementedError

    def heard(self, peer: int, step: int, number: float) -> None:
        """A word has come from a peer, which said it at a step of its own."""
        raise NotImplementedError

    @property
    def under_way(self) -> bool:
        """Whether something that this rank has begun is not over yet."""
        raise NotImplementedError

    # -- for all of them -------------------------------------------------------------------------------------------

    def after_update(self) -> None:
        """See to what has come; talk to a peer when it is time. Waits for at most `patience_seconds`."""
        comm, worker = self.comm, self.worker
        if comm.size == 1:
            return
        self.staleness = 0.0
        self.look(comm.now())
        if (worker.step + 1) % self.every == 0 and worker.rng.random() < self.probability:
            peer = self.neighbours.draw(worker.step // self.every, worker.rng, comm.lost)
            if peer is not None:
                self.talk(peer, comm.now() + self.patience)

    def expect(self, request: Request, then: Then = lambda request: None) -> None:
        """Do that once the request is complete; it is given the request, which may be `lost`."""
        self._then[request] = then

    def look(self, until: float | None = None) -> bool:
        """Until then at the latest wait for something to come, then see to all that is there. Whether there was anything."""
        found = False
        while (index := self.comm.wait_any(*self._then, until=until)) >= 0:
            request = list(self._then)[index]
            self._then.pop(request)(request)
            found, until = True, self.comm.now()
        return found

    def patient(self, hindrance: Callable[[], bool], until: float) -> None:
        """With patience: wait until the hindrance is gone, `until` at the latest, and see to what comes meanwhile."""
        while self.patience and hindrance() and self.look(until):
            pass

    def spare(self) -> Staged:
        """A tensor of the shape of the state for a model on its way; made when all others are in use."""
        return self._copies.pop() if self._copies else Staged(self.worker.arena.spare())

    def done_with(self, copy: Staged) -> None:
        """It can be used for another model. A crowd that has come at once is not provided for again."""
        if len(self._copies) < SPARES:
            self._copies.append(copy)

    def send(self, model: Staged, peer: int, tag: int) -> None:
        """Send what a spare copy holds, which is free again afterwards."""
        model.fetch()
        self.expect(self.comm.isend(model.host, peer, tag), lambda sent: self.done_with(model))

    def aged(self, steps: int) -> None:
        """Something that was so many steps old was mixed in; of several in one step the oldest counts."""
        self.staleness = max(self.staleness, float(steps))

    def finish(self) -> None:
        """Collective. See everything through that this rank has begun, then answer until all others have done so too."""
        comm = self.comm
        if comm.size == 1:
            return
        self.ended = True
        while self.under_way:
            self.look()
        everyone = comm.everyone()
        self.expect(everyone)
        while not everyone.done:
            self.look()
        # nobody will talk any more: this rank's own word ends its listening, and sends that have arrived end
        last, hearing = comm.isend(np.zeros(2), comm.rank, WORD), self._hearing
        del self._then[hearing]
        comm.wait(hearing)
        while hearing.source != comm.rank:  # said by a rank that has died since
            hearing = comm.irecv(self._word, ANY, WORD)
            comm.wait(hearing)
        comm.wait(last, *self._then)

    def _listen(self) -> None:
        if self.comm.size > 1:
            self._hearing = self.comm.irecv(self._word, ANY, WORD)
            self.expect(self._hearing, self._hear)

    def _hear(self, hearing: Request) -> None:
        step, number = self._word
        self.heard(hearing.source, int(step), float(number))
        self._listen()
