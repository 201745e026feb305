"""`workbench lab`: JupyterLab on this machine only, with the first notebook open."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

FIRST: Final = "01-first-run.ipynb"
NOTEBOOKS: Final = Path(__file__).resolve().parents[1] / "notebooks"

ENDING: Final = tuple(number for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if number is not None)

QUIET: Final = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": False}}
"""Settings that keep JupyterLab from asking about news and from looking for updates; a user's own settings go first."""


def run(folder: Path | None = None, *, port: int | None = None, browser: bool = True) -> int:
    """Serve until Ctrl-C; returns JupyterLab's exit status, 0 after Ctrl-C.

    `folder` is the folder to serve, by default that of the course's notebooks where there is one, else the current
    one. `port` is a free one by default. ValueError for a folder that does not exist or a port that is taken.
    """
    root = _root(folder)
    port = _port(port)
    token = secrets.token_hex(24)
    with tempfile.TemporaryDirectory(prefix="workbench-lab-") as settings, _ending():
        # in a session of its own: Ctrl-C reaches only us, and JupyterLab is asked to end, not asked twice whether it really should
        server = subprocess.Popen(
            command(root, port, browser),
            env={**environment(Path(settings)), "JUPYTER_TOKEN": token},  # not on the command line, which everyone can read
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        print(f"JupyterLab: {url(root, port, token)}", flush=True)
        print("Ctrl-C ends it; a cluster that is up stays up (workbench list, workbench stop NAME).", flush=True)
        try:
            return server.wait()
        except KeyboardInterrupt:
            print("\nending JupyterLab ...", flush=True)
            return 0
        finally:
            _end(server)


def command(root: Path, port: int, browser: bool) -> list[str]:
    """The command line of JupyterLab, of this very environment, on the loopback interface."""
    words = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    words += [f"--ServerApp.root_dir={root}", "--LabApp.news_url=None", "--Application.log_level=WARN"]
    if (root / FIRST).exists():
        words.append(f"--LabApp.default_url=/lab/tree/{FIRST}")
    if not browser:
        words.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--allow-root")
    return words


def environment(settings: Path) -> dict[str, str]:
    """This process's environment, with `settings` as one more place of defaults for JupyterLab; the file is written here."""
    defaults = settings / "labconfig" / "default_setting_overrides.json"
    defaults.parent.mkdir(parents=True, exist_ok=True)
    defaults.write_text(json.dumps(QUIET), encoding="utf-8")
    paths = [str(settings), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    return {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}


def url(root: Path, port: int, token: str) -> str:
    """Where the browser goes."""
    place = f"/lab/tree/{FIRST}" if (root / FIRST).exists() else "/lab"
    return f"http://127.0.0.1:{port}{place}?token={token}"


def _root(folder: Path | None) -> Path:
    if folder is None:
        return NOTEBOOKS if (NOTEBOOKS / FIRST).exists() else Path.cwd()
    if not folder.is_dir():
        raise ValueError(f"lab({str(folder)!r}): folder must be a folder that exists")
    return folder.resolve()


def _port(port: int | None) -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        # what a server that has just ended leaves behind does not count as taken
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except (OSError, OverflowError) as error:
            raise ValueError(f"lab(port={port}): port must be one that is free, {error}") from error
        return int(probe.getsockname()[1])


@contextmanager
def _ending() -> Iterator[None]:
    """A request to end (SIGTERM, or a terminal that closes) is a Ctrl-C, so that JupyterLab does not outlive us."""

    def ask(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask JupyterLab to end its kernels and itself; insist after some seconds, and at once when Ctrl-C comes again."""
    if server.poll() is not None:
        return
    server.terminate()
    deadline = time.monotonic() + 15
    try:
        server.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()
        server.wait()
