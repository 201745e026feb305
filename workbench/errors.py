"""What can happen to a run or a cluster. What a person *chose* wrongly is a ValueError at the moment it is chosen."""

from __future__ import annotations


class WorkbenchError(Exception):
    """Base of everything that happened rather than was chosen."""


class ClusterNotStarted(WorkbenchError):
    """The engines did not come up; the message holds the tail of their log and what to do."""


class ClusterBusy(WorkbenchError):
    """A run is on; stop it, or wait for it, before the next `train`."""


class ClusterGone(WorkbenchError):
    """The cluster (or its controller) no longer answers."""


class RunFolderDamaged(WorkbenchError):
    """A run folder cannot be read; the message names the file and what is wrong with it."""


class RankFailed(WorkbenchError):
    """A rank ended a run with an error."""

    def __init__(self, rank: int, host: str, device: str, step: int, where: str, traceback: str = "") -> None:
        self.rank, self.host, self.device, self.step, self.where, self.remote_traceback = rank, host, device, step, where, traceback
        text = f"rank {rank} on {host} ({device}) failed at step {step}: {where}"
        super().__init__(f"{text}\n{traceback}" if traceback else text)


class Diverged(WorkbenchError):
    """The loss is no longer a number."""


class PeerLost(WorkbenchError):
    """A rank that an exchange needs is gone."""

    def __init__(self, rank: int, what: str = "") -> None:
        self.rank = rank
        super().__init__(f"rank {rank} is lost{f': {what}' if what else ''}")


class Aborted(WorkbenchError):
    """The run was told to end at once."""


class Deadlock(WorkbenchError):
    """On virtual ranks: nobody can go on. The message names each rank, its operation and its peer."""
