"""A JupyterLab of our own on the loopback interface, and a Chromium that must not ask anyone else for anything."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from workbench.lab import environment

ROOT = Path(__file__).parents[2]
ARTEFACTS = ROOT / "artefacts"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip

RUN = """() => { const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].map(e => e.textContent.trim());
    return prompts.length && prompts.every(text => /^\\[\\d+\\]:$/.test(text)) }"""
"""Whether every cell has run."""


@dataclass
class Lab:
    """A running JupyterLab; what it serves lies in `root`."""

    url: str
    token: str
    root: Path
    environment: dict[str, str]


@dataclass
class Seen:
    """What a page has asked for and said."""

    elsewhere: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def ours(self) -> list[str]:
        """Errors that name the workbench, its widgets or what they stand on."""
        return [error for error in self.errors if any(word in error.lower() for word in ("workbench", "bokeh", "widget", "/static/js"))]


@pytest.fixture(scope="package")
def chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium: install it (apt-get install chromium), or give its path in $CHROMIUM")
    return found


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[Lab]:
    root, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    places = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "HOME": str(home)}
    environ = {**environment(home / "defaults"), **places, "JUPYTER_TOKEN": token, "OMP_NUM_THREADS": "1"}
    log = home / "server.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environ, start_new_session=True)
        url = f"http://127.0.0.1:{port}"
        try:
            _until_up(server, f"{url}/api/status?token={token}", log)
            yield Lab(url, token, root, environ)
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def _until_up(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Any]:
    """Not for the whole session: while it is there, playwright's event loop counts as running in this thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        try:
            running = started.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        except playwright.Error as error:
            pytest.skip(f"{chromium} does not start: {error}")
        yield running
        running.close()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def page(browser: Any, seen: Seen) -> Iterator[Any]:
    """A page that keeps its requests to other machines and its errors in `seen`."""
    context = browser.new_context(viewport={"width": 1360, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(30_000)

    def asked(request: Any) -> None:
        address = urllib.parse.urlsplit(request.url)
        if address.scheme not in ("data", "blob", "about") and address.hostname not in ("127.0.0.1", "localhost"):
            seen.elsewhere.append(request.url)

    context.on("request", asked)
    opened.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: seen.errors.append(str(error)))
    yield opened
    context.close()


class Notebook:
    """A notebook in JupyterLab, as a person has it before them."""

    def __init__(self, page: Any, lab: Lab) -> None:
        self.page, self.lab = page, lab

    def open(self, name: str, cells: list[str] | None = None) -> None:
        """Open it and wait for its kernel; with `cells` write it first."""
        import nbformat

        if cells is not None:
            kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
            notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
            notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
            nbformat.write(notebook, self.lab.root / name)
        self.page.goto(f"{self.lab.url}/lab/tree/{name}?token={self.lab.token}&reset")
        self.ready()

    def ready(self) -> None:
        """Wait for the kernel; to run cells before that would open a dialog."""
        self.page.wait_for_function(
            """() => { const context = window.jupyterapp?.shell?.currentWidget?.sessionContext;
                return context?.isReady && context.session?.kernel?.status === 'idle' }""",
            timeout=90_000,
        )

    def command(self, name: str) -> None:
        """A command of JupyterLab; its promise is not waited for, it may never end."""
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name); return 1 }", name)

    def run_all(self, timeout: float = 60) -> None:
        """Run every cell and wait until all have run."""
        self.command("notebook:run-all-cells")
        self.page.wait_for_function(RUN, timeout=timeout * 1000)

    def execute(self, code: str) -> None:
        """Have the kernel run code, beside the cells."""
        self.page.evaluate("code => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code}); return 1 }", code)

    def theme(self, name: str) -> None:
        """Change the page's theme."""
        self.page.evaluate("theme => { window.jupyterapp.commands.execute('apputils:change-theme', {theme}); return 1 }", name)
        light = "false" if "Dark" in name else "true"
        self.page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=light)
        # JupyterLab covers the page while the style sheet of the theme is being loaded
        self.page.wait_for_function("() => !document.querySelector('#jupyterlab-splash')")

    def data(self, plot: str) -> dict[str, Any]:
        """Column -> data of the first glyph of the figure of that name, NaN as None."""
        return self.page.evaluate(
            """name => { for (const doc of window.Bokeh?.documents ?? []) {
                const figure = doc.get_model_by_name(name);
                if (!figure) continue;
                const data = figure.renderers[0].data_source.data;
                const list = v => v?.[Symbol.iterator] && typeof v !== 'string';
                const plain = v => typeof v === 'number' ? (Number.isFinite(v) ? v : null) : list(v) ? [...v].map(plain) : v;
                return Object.fromEntries([...(data.entries?.() ?? Object.entries(data))].map(([k, v]) => [k, plain(v)]));
            } return {} }""",
            plot,
        )

    def points(self, plot: str) -> int:
        """How many values a plot shows."""
        data = self.data(plot)
        column = data.get("ys") or data.get("total") or []
        return sum(value is not None for row in column for value in (row if isinstance(row, list) else [row]))

    def until(self, condition: Any, words: str, seconds: float = 30) -> None:
        """Wait until the condition holds; the page goes on meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {words}"
            self.page.wait_for_timeout(50)

    def finished(self) -> None:
        """Wait until every cell has run."""
        self.page.wait_for_function(RUN)

    def artefact(self, name: str) -> Path:
        """Where a picture is kept."""
        ARTEFACTS.mkdir(exist_ok=True)
        return ARTEFACTS / name

    def screenshot(self, name: str, selector: str = ".workbench") -> Path:
        """Keep a picture of the panel."""
        self.page.locator(selector).first.screenshot(path=self.artefact(name))
        return self.artefact(name)


@pytest.fixture
def notebook(page: Any, lab: Lab) -> Notebook:
    return Notebook(page, lab)
