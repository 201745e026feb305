"""Every collective with every wire on real ranks, beside its formula, MPI's own all-reduce and gloo's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from workbench.benchmarks.exchange_page import write_plots
from workbench.benchmarks.figures import Figure, on_ranks
from workbench.benchmarks.heats import EMULATED_BYTES, GLOO, KB, MB, MPI, MPI_BYTES, MPI_MEAN, PEERS
from workbench.benchmarks.ranks import told
from workbench.benchmarks.timings import HERE, Calibration, Timing, Timings, is_ours
from workbench.comm.network import Network

RANKS: Final = (2, 4)
SECONDS: Final = {HERE: 140.0, "emulated": 90.0}
"""For the heats of one start of ranks; with two numbers of ranks the whole takes less than ten minutes."""
QUICK_SECONDS: Final = 5.0

GLOO_BYTES: Final = (KB, 64 * KB, MB, 16 * MB, 64 * MB)
SHOWN_BYTES: Final = (KB, MB, 64 * MB, *EMULATED_BYTES[1:])
"""Sizes of the lines on the screen; the file has all."""


def measure(quick: bool = False, ranks: Sequence[int] = RANKS, network: str = "1G", out: Path | None = None) -> list[Figure]:
    """Time the whole table on this host and behind emulated links of `network`; tables and plots go to the folder `out`.

    A Ctrl-C ends the ranks, keeps what was measured, and is raised again. ValueError for a number of ranks or a network there is not.
    """
    Network.of(network)
    if not ranks or min(ranks) < 2:
        raise ValueError(f"bench exchange: ranks must be whole numbers of at least 2, got {', '.join(map(str, ranks)) or 'none'}")
    screen, found, figures = Console(stderr=True), Timings(), list[Figure]()
    folder = out or Path("artefacts/exchange")
    try:
        with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=screen, transient=True) as progress:
            task = progress.add_task("starting ranks", total=2 * len(ranks))
            for count in ranks:
                for links in (HERE, network):
                    begun = progress.tasks[task].completed
                    for share, words in collect(found, count, links, quick):
                        progress.update(task, completed=begun + share, description=words)
                    progress.update(task, completed=begun + 1)
            progress.update(task, description="memory and messages")
            figures += on_ranks(2, "workbench.benchmarks.messages", quick)
            figures += on_ranks(2, "workbench.benchmarks.allocation", quick)
    finally:
        figures = [*against_mpi(found), *against_gloo(found, ranks), *emulated(found, network), *figures]
        if found.timings:
            Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(*shown(found), sep="\n")
            for path in (*found.save(folder, figures), write_plots(found, folder / "exchange.html")):
                screen.print(f"written: {path}", soft_wrap=True, highlight=False)
    return figures


def collect(found: Timings, ranks: int, network: str, quick: bool) -> Iterator[tuple[float, str]]:
    """Start ranks, gather what they tell; yields the share that is done and what is being measured."""
    seconds = QUICK_SECONDS if quick else SECONDS.get(network, SECONDS["emulated"])
    words = ["--seconds", str(seconds), *(["--quick"] if quick else []), *(["--network", network] if network != HERE else [])]
    for line in told(ranks, "workbench.benchmarks.exchange_ranks", *words):
        if line["kind"] == "heat":
            yield line["index"] / line["heats"], f"{ranks} ranks, {network}: {line['wire']}, {size_words(line['nbytes'])}"
        else:
            take(found, ranks, network, line)


def take(found: Timings, ranks: int, network: str, line: dict[str, Any]) -> None:
    """Add one line of what ranks tell."""
    where = f"{ranks} ranks, {network}"
    if line["kind"] == "calibration":
        found.calibrations.append(Calibration(network, ranks, line["latency"], line["bandwidth"], line["library"]))
    elif line["kind"] == "timing":
        samples, predicted = tuple(line["samples"]), line["predicted"]
        found.timings.append(Timing(network, ranks, line["heat"], **line["entry"], nbytes=line["nbytes"], samples=samples, predicted=predicted))
    elif line["kind"] == "left out":
        found.left_out.append(f"{where}: {line['entry']['collective']} x {line['entry']['wire']}, {size_words(line['nbytes'])}: {line['left_out']}")
    elif line["kind"] == "late":
        found.left_out.append(f"{where}: the last {line['left']} heats, for want of time")


def against_mpi(found: Timings) -> list[Figure]:
    """The better of Ring and HalvingDoubling, which leave the mean, over MPI's blocking all-reduce, which leaves the sum, 2 ranks."""
    figures = []
    for nbytes in MPI_BYTES:
        pair = found.ratio(HERE, 2, nbytes, lambda t: t.collective in ("ring", "halving-doubling"), lambda t: t.collective == MPI)
        if pair is not None:
            ours, bare = pair
            (mean,) = (t for t in found.heats(HERE, 2, nbytes)[-1] if t.collective == MPI_MEAN)
            detail = f"{ours.collective} {milliseconds(ours)}, MPI {milliseconds(bare)}"
            detail += f", with the division that makes it a mean {milliseconds(mean)} ({ours.seconds / mean.seconds:.2f} x)"
            what = f"2 ranks, {nbytes / 1e6:g} MB: exchange over MPI's own"
            figures.append(Figure.at_most(what, ours.seconds / bare.seconds, 1.0 if nbytes == MPI_BYTES[-1] else 1.15, "x", detail))
    return figures


def against_gloo(found: Timings, ranks: Sequence[int]) -> list[Figure]:
    """The best float32 collective of ours over gloo, which sums and does not divide."""
    figures = []
    for count in ranks:
        for nbytes in GLOO_BYTES:
            pair = found.ratio(HERE, count, nbytes, lambda t: is_ours(t) and t.wire == "float32", lambda t: t.collective == GLOO)
            if pair is not None:
                detail = f"{pair[0].collective} {milliseconds(pair[0])}, gloo {milliseconds(pair[1])}"
                what = f"{count} ranks, {size_words(nbytes)}: best exchange over gloo"
                figures.append(Figure.at_most(what, pair[0].seconds / pair[1].seconds, 0.8, "x", detail))
    return figures


def emulated(found: Timings, network: str) -> list[Figure]:
    """Half the bytes over all of them, and the emulated link beside its formula; the targets are those of 1 GbE."""
    figures, targeted = [], network == "1G"
    pair = found.ratio(network, 4, 10_000_000, lambda t: (t.collective, t.wire) == ("all-to-all", "float16"), is_ring)
    if pair is not None:
        detail = f"{milliseconds(pair[0])} and {milliseconds(pair[1])}"
        what, ratio = f"4 ranks, {network}, 10 MB: all-to-all in float16 over the ring in float32", pair[0].seconds / pair[1].seconds
        figures.append(Figure.at_most(what, ratio, 0.60, "x", detail) if targeted else Figure(what, ratio, "x", detail=detail))
    for count, nbytes, limit in ((2, 1_000_000, 5), (2, 10_000_000, 5), (4, 1_000_000, 15), (4, 10_000_000, 5)):
        rings = [t for heat in found.heats(network, count, nbytes)[:1] for t in heat if is_ring(t) and t.predicted]
        for ring in rings:
            off = 100 * (ring.seconds / (ring.predicted or 1.0) - 1)
            detail = f"ring: {milliseconds(ring)}, formula {1e3 * (ring.predicted or 0):.4g} ms ({off:+.1f} %)"
            what = f"{count} ranks, {network}, {size_words(nbytes)}: emulated link off its formula"
            figures.append(Figure.at_most(what, abs(off), limit, "%", detail) if targeted else Figure(what, abs(off), "%", detail=detail))
    return figures


def is_ring(timing: Timing) -> bool:
    """The ring in float32."""
    return (timing.collective, timing.wire) == ("ring", "float32")


def shown(found: Timings) -> Iterator[Table | str]:
    """A table for each start of ranks: measured beside predicted."""
    for calibration in found.calibrations:
        yield (
            f"\n{calibration.ranks} ranks, {calibration.network}: {1e6 * calibration.latency:.3g} us and {calibration.bandwidth / 1e6:.4g} MB/s "
            f"a message ({calibration.library})"
        )
        drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name in ("collective", "wire", "size", "measured", "predicted", "ratio", "bus bandwidth"):
            drawn.add_column(name, justify="left" if name in ("collective", "wire") else "right", no_wrap=True)
        for timing in found.timings:
            if (timing.network, timing.ranks) == (calibration.network, calibration.ranks) and timing.nbytes in SHOWN_BYTES:
                beside = (f"{1e3 * timing.predicted:.4g} ms", f"{timing.seconds / timing.predicted:.2f}") if timing.predicted else ("", "")
                words = (timing.collective, timing.wire, size_words(timing.nbytes), milliseconds(timing), *beside)
                drawn.add_row(*words, f"{timing.bus_bandwidth / 1e6:.4g} MB/s", style="dim" if timing.collective in PEERS else None)
        yield drawn
    if found.left_out:
        yield f"\nleft out ({len(found.left_out)}): {found.left_out[0]}" + (
            " ... (all of them are in exchange.json)" if len(found.left_out) > 1 else ""
        )


def milliseconds(timing: Timing) -> str:
    """Its median in words."""
    return f"{1e3 * timing.seconds:.4g} ms"


def size_words(nbytes: int) -> str:
    """A size as people say it: in units of 1024 where it is a whole number of them, else of 1000."""
    for unit, power in (("MiB", MB), ("KiB", KB)):
        if nbytes % power == 0:
            return f"{nbytes // power} {unit}"
    return f"{nbytes / 1e6:g} MB"
