"""What a link and a device cost: the numbers behind formulas, virtual ranks and emulated links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from workbench.options import Options, option, unknown_name


@final
@dataclass(frozen=True)
class Network(Options):
    """Links between ranks: a message of n bytes arrives `latency + n / bandwidth` seconds after its send starts.

    Full duplex; the messages that a rank sends share its link one after the other, and so do those that arrive
    (Hockney's model with one port, Hockney 1994).
    """

    latency: float = option(50e-6, minimum=0, maximum=3600, unit="s", help="time of an empty message")
    bandwidth: float = option(125e6, minimum=1, maximum=1e15, unit="bytes/s", help="bytes a link moves in a second, each way")

    PRESETS: ClassVar[dict[str, tuple[float, float]]] = {"100M": (100e-6, 12.5e6), "1G": (50e-6, 125e6), "10G": (20e-6, 1.25e9)}

    @property
    def words(self) -> str:
        """For a person: latency and bandwidth."""
        return f"{self.latency * 1e6:g} us, {self.bandwidth / 1e6:g} MB/s"

    def seconds(self, nbytes: float) -> float:
        """Time of one message."""
        return self.latency + nbytes / self.bandwidth

    def ring_seconds(self, nbytes: float, size: int) -> float:
        """Time of an all-reduce around a ring: 2(P-1) messages of 1/P of the buffer, one after the other."""
        return 2 * (size - 1) * self.seconds(nbytes / size)

    @classmethod
    def of(cls, given: Network | str) -> Network:
        """A network, or the preset of that name: 100M, 1G, 10G."""
        if isinstance(given, cls):
            return given
        if given not in cls.PRESETS:
            raise ValueError(unknown_name("network", given, cls.PRESETS))
        latency, bandwidth = cls.PRESETS[str(given)]
        return cls(latency=latency, bandwidth=bandwidth)


@final
@dataclass(frozen=True)
class Device(Options):
    """What a virtual rank computes with. What is not given is measured once on this machine before the run."""

    seconds_per_sample: float | None = option(None, minimum=0, unit="s", help="forward and backward of one sample; None: measured")
    seconds_per_update: float | None = option(None, minimum=0, unit="s", help="one optimizer update; None: measured")
    jitter: float = option(0.0, minimum=0, maximum=1, help="standard deviation of the compute time, as a share of it (seeded)")
