"""The commands: what each takes, and its help. What they do lies in the modules beside this one and in the rooms above."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from workbench.benchmarks import BENCHMARKS
from workbench.cli.screen import output, table

app = typer.Typer(
    help="A bench for distributed SGD: MPI ranks, exchange strategies, and what each rank does while it trains.",
    epilog="Example: workbench demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Ranks = Annotated[int, typer.Option(min=1, help="number of MPI ranks")]
Out = Annotated[Path, typer.Option(help="folder in which the folder of the run is made")]


@app.command(epilog="Example: workbench demo --ranks 2")
def demo(
    ranks: Annotated[int | None, typer.Option(min=1, help="number of MPI ranks; 4, or 2 where there is one core")] = None,
    out: Out = Path("runs"),
) -> None:
    """Watch a real cluster train with three strategies."""
    from workbench.cli.demo import demonstrate

    demonstrate(ranks, out)


JOB_FILE = 'job.json may be as short as  {"model": "mlp", "data": "digits", "epochs": 5, "strategy": "gossip"}'


@app.command(epilog=f"Example: workbench train job.json --ranks 4 --out runs\n\n{JOB_FILE}\n\nWhat it may hold: workbench options job")
def train(
    job: Annotated[Path, typer.Argument(help="JSON file of the job, as Job.save(path) writes it, or the folder of a run")],
    ranks: Ranks,
    out: Out = Path("runs"),
    virtual: Annotated[bool, typer.Option("--virtual", help="on simulated ranks, with a simulated network and clock")] = False,
    network: Annotated[str | None, typer.Option(help="an emulated link, 100M, 1G or 10G; with --virtual a simulated one, 1G by default")] = None,
    devices: Annotated[str | None, typer.Option(help="of real ranks: auto (GPUs where there are any) or cpu; auto by default")] = None,
) -> None:
    """Train a job on a cluster of its own.

    Ctrl-C stops it cleanly and keeps what was recorded; a second one ends it at once."""
    from workbench.cli.training import train as train_job

    if virtual and devices is not None:
        raise ValueError(f"--devices {devices} is for real ranks, --virtual simulates them: give one of the two")
    train_job(job, ranks, out, network, None if virtual else devices or "auto")


@app.command(epilog="Example: workbench compare runs/*")
def compare(
    folders: Annotated[list[Path], typer.Argument(help="folders of runs")],
    report: Annotated[Path | None, typer.Option(help="also write one HTML page with the plots of all of them")] = None,
) -> None:
    """Lay runs side by side.

    Accuracy, seconds, samples per second, share of time exchanging, bytes per step."""
    from workbench.cli.comparing import comparison, open_runs

    runs = open_runs(folders)
    output.print(comparison(runs))
    if report is not None:
        from workbench.runs.page import page_path
        from workbench.runs.side_by_side import write_side_by_side

        output.print(f"report with plots: {write_side_by_side(runs, page_path(report, 'compared.html'))}", soft_wrap=True)


@app.command(epilog="Example: workbench export runs/2026-11-21-101502-synchronous-ring --parquet")
def export(
    folder: Annotated[Path, typer.Argument(help="folder of a run")],
    parquet: Annotated[bool, typer.Option("--parquet", help="one Parquet file per table, as pandas, polars and DuckDB read them")] = False,
    out: Annotated[Path | None, typer.Option(help="where to write; the folder of the run by default")] = None,
) -> None:
    """Write the records of a run for other programs."""
    from workbench.runs.folders import run_folder
    from workbench.store import export_parquet

    if not parquet:
        raise ValueError("say the form: workbench export DIR --parquet")
    for path in export_parquet(run_folder(folder), out):
        output.print(path, soft_wrap=True)


@app.command(epilog="Example: workbench options synchronous")
def options(
    name: Annotated[str | None, typer.Argument(help="job, a name (ring, gossip, resnet20 ...) or a group (collectives ...); all without it")] = None,
) -> None:
    """Show what can be chosen.

    Jobs, strategies, collectives, wires, outer optimizers, faults, models, data, networks and devices
    with their options: default, what is allowed, what it is."""
    from workbench.cli.listing import show

    show(name)


@app.command(epilog="Example: workbench bench step")
def bench(
    name: Annotated[str | None, typer.Argument(help=f"one of {', '.join(BENCHMARKS)}; all of them without it")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="fewer repetitions and noisy figures: a missed target says little")] = False,
    ranks: Annotated[str | None, typer.Option(help="of exchange: numbers of MPI ranks; 2,4 by default")] = None,
    network: Annotated[str | None, typer.Option(help="of exchange and overlap: the network that is emulated, 100M, 1G or 10G; 1G by default")] = None,
    out: Annotated[Path | None, typer.Option(help="of exchange and curves: folder for tables and plots; artefacts/NAME by default")] = None,
) -> None:
    """Measure the workbench itself.

    Exit code 1 if a figure misses its target. Ctrl-C ends a benchmark; exchange keeps what it has measured."""
    from workbench.cli.measuring import measure

    raise typer.Exit(measure(name, quick, ranks=ranks, network=network, out=out))


@app.command(epilog="Example: workbench lab")
def lab(
    folder: Annotated[Path | None, typer.Argument(help="folder to serve; the course's notebooks by default")] = None,
    port: Annotated[int | None, typer.Option(help="port on this machine; a free one by default")] = None,
    browser: Annotated[bool, typer.Option(help="whether to open a browser")] = True,
) -> None:
    """Open the first notebook in JupyterLab."""
    from workbench.lab import run

    raise typer.Exit(run(folder, port=port, browser=browser))


@app.command(epilog="Example: workbench doctor")
def doctor() -> None:
    """Find what keeps a cluster from starting.

    Says the cure of what it finds. Exit code 1 if something is wrong."""
    from workbench.cli.doctor import examine

    marks = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "bad": "[bold red]BAD [/]"}
    bad = 0
    for finding in examine():
        output.print(f"{marks[finding.state]} [bold]{finding.what}:[/] ", end="")
        output.print(finding.text, markup=False, soft_wrap=True)
        if finding.cure:
            output.print(f"     {finding.cure}", markup=False, soft_wrap=True)
        bad += finding.state == "bad"
    raise typer.Exit(1 if bad else 0)


@app.command(epilog="Example: workbench stop default")
def stop(name: Annotated[str, typer.Argument(help="name of the cluster, as workbench list shows it")]) -> None:
    """Stop a cluster, also what a crash has left over.

    All its processes are ended; the records of its run are kept."""
    from workbench.cluster import registry
    from workbench.options import unknown_name

    registry.check_name(name)
    known = [listed.name for listed in registry.running()]
    if name not in known:
        raise ValueError(unknown_name("cluster", name, known) if known else f"no cluster {name!r}: none is up")
    ended = registry.stop(name)
    output.print(f"stopped {name}: {ended} processes ended")


@app.command("list", epilog="Example: workbench list")
def list_clusters() -> None:
    """List the clusters that are up on this host.

    Those of this user, and what is left of crashed ones."""
    from workbench.cluster import registry

    listed = registry.running()
    if not listed:
        output.print("no cluster is up")
        return
    rows = []
    for line in listed:
        record = line.record
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.started)) if record else ""
        described = (str(record.ranks), str(record.devices), record.mpi, since) if record else ("", "", "", "")
        rows.append((line.name, line.state, *described, str(line.processes)))
    head = ("name", "state", "ranks", "devices", "MPI", "since", "processes")
    output.print(table(head, rows, words=("name", "state", "devices", "MPI", "since")))
    if any(line.state == "left over" for line in listed):
        output.print("end what is left over: workbench stop NAME")
