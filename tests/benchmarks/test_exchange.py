"""The benchmark of exchanges: who takes part, how a line is drawn through times, what figures say, what is kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.benchmarks import exchange
from workbench.benchmarks.allocation import peak
from workbench.benchmarks.calibration import EMPTY_BYTES, SIZES, fitted
from workbench.benchmarks.exchange_page import write_plots
from workbench.benchmarks.heats import (
    BYTES,
    EMULATED_BYTES,
    GLOO,
    KB,
    MB,
    MPI,
    MPI_BYTES,
    MPI_MEAN,
    PEERS,
    Entry,
    Track,
    course,
    layer,
    refused,
    table_of,
)
from workbench.benchmarks.timings import HERE, Calibration, Timing, Timings
from workbench.collectives import PORTABLE, Collective, Hierarchical, Ring, Tree
from workbench.comm.base import Communicator
from workbench.comm.network import Network
from workbench.comm.virtual import VirtualWorld
from workbench.wires import WIRES


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_collective_takes_part_with_every_wire_that_goes_with_it(size: int) -> None:
    ran = {entry for heat in course(size, emulated=False, quick=False) for entry in heat.entries if entry.collective not in PEERS}
    every = {Entry(collective, wire) for collective in PORTABLE for wire in WIRES}
    assert ran == {entry for entry in every if not refused(entry, size)}
    assert {Entry("ring"), Entry("ring", "float16"), Entry("native")} <= ran
    assert Entry("native", "float16") not in ran


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("quick", [True, False])
def test_peers_take_turns_with_ours_and_never_go_through_an_emulated_link(size: int, quick: bool) -> None:
    for heat in course(size, emulated=True, quick=quick):
        assert not {entry.collective for entry in heat.entries} & set(PEERS)
    beside = [heat for heat in course(size, emulated=False, quick=quick) if Entry(GLOO) in heat.entries]
    assert beside
    assert all({Entry("ring"), Entry(MPI_MEAN), Entry(MPI)} <= set(heat.entries) for heat in beside)


def test_the_sizes_of_every_figure_are_measured() -> None:
    here, link = ([heat.nbytes for heat in course(2, emulated, quick=False)] for emulated in (False, True))
    assert {*BYTES, *MPI_BYTES, *exchange.GLOO_BYTES} <= set(here)
    assert set(EMULATED_BYTES) <= set(link)
    assert table_of(2, "float32")[0] == Entry("native")


@pytest.mark.parametrize(("hosts", "same"), [((0, 0, 0, 0), Tree()), ((0, 1, 2, 3), Ring()), ((0, 0, 1, 1), Hierarchical(group=2))], ids=str)
def test_what_is_predicted_of_groups_by_host_knows_the_hosts(hosts: tuple[int, ...], same: Collective) -> None:
    network = Network.of("1G")

    def body(comm: Communicator) -> float | None:
        comm.hosts = lambda: hosts  # type: ignore[method-assign]
        return Track(comm, network, {})._predicted(Entry("hierarchical"), MB)

    assert VirtualWorld(4, network).run(body) == [same.seconds(MB, 4, network)] * 4


@pytest.mark.parametrize(("numbers", "shape"), [(1, (1, 1)), (250_000, (500, 500)), (256, (16, 16)), (1 << 19, (512, 1024)), (7, (1, 7))])
def test_a_layer_is_as_square_as_its_numbers_allow(numbers: int, shape: tuple[int, int]) -> None:
    assert layer(numbers) == shape


def test_the_line_through_exact_times_is_the_network_that_made_them() -> None:
    network, sizes = Network.of("1G"), (EMPTY_BYTES, *SIZES)
    found = fitted(sizes, np.array([network.seconds(nbytes) for nbytes in sizes]))
    assert found.latency == pytest.approx(network.seconds(EMPTY_BYTES))
    assert found.bandwidth == pytest.approx(network.bandwidth, rel=1e-6)


def test_times_that_fall_with_size_still_give_a_bandwidth() -> None:
    times = np.array([1e-6, 9e-3, 8e-3, 7e-3, 6e-3, 5e-3])
    assert fitted((EMPTY_BYTES, *SIZES), times).bandwidth == pytest.approx(SIZES[-1] / 5e-3)


class Forgetful:
    """A plan that makes a buffer in every exchange, or one that does not."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers
        self.kept = np.ones(1000)

    def run(self) -> None:
        np.add(self.kept, 1.0, out=self.kept)
        if self.numbers:
            np.ones(self.numbers).sum()


def test_a_temporary_of_an_exchange_is_seen() -> None:
    assert peak(Forgetful(0)) < KB  # type: ignore[arg-type]
    assert 800_000 <= peak(Forgetful(100_000)) < 800_000 + KB  # type: ignore[arg-type]


def timing(collective: str, seconds: float, nbytes: int, network: str = HERE, ranks: int = 2, heat: int = 0, wire: str = "float32") -> Timing:
    return Timing(network, ranks, heat, collective, wire, nbytes, (seconds, 3 * seconds, seconds / 2), predicted=seconds / 1.04)


def everything() -> Timings:
    """Of which ours are twice as fast as gloo, 1.5 times as slow as MPI, and 4 % off the formula on emulated links."""
    found = Timings(calibrations=[Calibration(HERE, 2, 1e-6, 1e9, "some MPI")], left_out=["4 ranks: <nothing>"])
    for nbytes in (*MPI_BYTES, MB):
        named = {"ring": 1.3, "halving-doubling": 1.2, MPI_MEAN: 1.0, MPI: 0.8, GLOO: 2.4}
        found.timings += [timing(name, seconds * nbytes * 1e-9, nbytes) for name, seconds in named.items()]
    for ranks in (2, 4):
        found.timings += [timing("ring", nbytes / 1e8, nbytes, "1G", ranks, 1) for nbytes in EMULATED_BYTES]
        found.timings.append(timing("all-to-all", 0.055, 10_000_000, "1G", ranks, 1, "float16"))
    return found


def test_figures_are_ratios_of_medians_within_a_heat() -> None:
    against_mpi = {figure.what: figure for figure in exchange.against_mpi(everything())}
    large = against_mpi["2 ranks, 100 MB: exchange over MPI's own"]
    assert (large.value, large.target, large.met) == (pytest.approx(1.5), "<= 1", False)
    assert "halving-doubling 120 ms, MPI 80 ms, with the division that makes it a mean 100 ms (1.20 x)" in large.detail
    (gloo,) = exchange.against_gloo(everything(), (2, 4))
    assert (gloo.value, gloo.target, gloo.met) == (pytest.approx(0.5), "<= 0.8", True)

    emulated = exchange.emulated(everything(), "1G")
    assert [figure.met for figure in emulated] == [True] * 5
    assert emulated[0].value == pytest.approx(0.55)
    assert all(figure.value == pytest.approx(4.0) for figure in emulated[1:])
    assert [figure.met for figure in exchange.emulated(everything(), "100M")] == []


def test_what_was_measured_is_kept_and_drawn(tmp_path: Path) -> None:
    found = everything()
    lines, whole = found.save(tmp_path / "new" / "folder", exchange.emulated(found, "1G"))
    with lines.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.timings)
    assert float(rows[0]["seconds"]) == found.timings[0].seconds
    kept = json.loads(whole.read_text())
    assert kept["timings"][0]["samples"] == list(found.timings[0].samples)
    assert (kept["calibrations"][0]["library"], kept["machine"]["cores"] > 0) == ("some MPI", True)
    assert len(kept["figures"]) == 5
    text = write_plots(found, tmp_path / "exchange.html").read_text()
    assert "halving-doubling" in text
    assert "&lt;nothing&gt;" in text
    assert "<script src=" not in text
    assert "<link" not in text


def ranks_that_are_interrupted(*told: Any, **more: Any) -> Iterator[dict[str, Any]]:
    yield {"kind": "calibration", "latency": 1e-6, "bandwidth": 1e9, "library": "some MPI"}
    yield {"kind": "heat", "index": 0, "heats": 2, "nbytes": MB, "wire": "float32"}
    yield {
        "kind": "timing", "heat": 0, "nbytes": MB, "entry": {"collective": "ring", "wire": "float32"}, "samples": [0.1, 0.3, 0.2], "predicted": 0.1,
    }  # fmt: skip
    raise KeyboardInterrupt


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(exchange, "told", ranks_that_are_interrupted)
    with pytest.raises(KeyboardInterrupt):
        exchange.measure(quick=True, out=tmp_path)
    assert [timing["samples"] for timing in json.loads((tmp_path / "exchange.json").read_text())["timings"]] == [[0.1, 0.3, 0.2]]
    assert "200 ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ranks": (1, 4)}, "ranks must be whole numbers of at least 2, got 1, 4"),
        ({"ranks": ()}, "ranks must be whole numbers of at least 2, got none"),
        ({"network": "1T"}, "'1T'"),
    ],
)
def test_what_cannot_be_measured_is_said_before_ranks_start(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        exchange.measure(quick=True, out=tmp_path, **given)
    assert not list(tmp_path.iterdir())
