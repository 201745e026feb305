"""`workbench lab`: on loopback, with the first notebook, without pop-ups, and gone after Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from workbench import lab

SERVE = "import sys; from pathlib import Path; from workbench import lab; sys.exit(lab.run(Path(sys.argv[1]), browser=False))"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address."""
    folder, home = tmp_path / "course", tmp_path / "home"
    folder.mkdir()
    (folder / lab.FIRST).write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    places = {name: str(home / name) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", SERVE, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **places},
        start_new_session=True,
    )
    assert process.stdout is not None
    address = re.search(r"http://\S+", process.stdout.readline())
    assert address
    try:
        _until(lambda: _answers(address[0]), "the server answers")
        yield process, address[0]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        process.stdout.close()


def test_it_serves_the_first_notebook_to_this_machine_and_ends_at_ctrl_c(served: tuple[subprocess.Popen[str], str]) -> None:
    process, address = served
    parts = urllib.parse.urlsplit(address)
    assert (parts.hostname, parts.path) == ("127.0.0.1", f"/lab/tree/{lab.FIRST}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{parts.netloc}/api/contents", timeout=5)
    refused.value.close()
    assert refused.value.code == 403
    with urllib.request.urlopen(f"http://{parts.netloc}/api/contents?{parts.query}", timeout=5) as reply:
        assert [entry["name"] for entry in json.load(reply)["content"]] == [lab.FIRST]
    settings = f"http://{parts.netloc}/lab/api/settings/@jupyterlab/apputils-extension:notification?{parts.query}"
    with urllib.request.urlopen(settings, timeout=5) as reply:
        defaults = json.load(reply)["schema"]["properties"]
    assert defaults["fetchNews"]["default"] == "false"
    (child,) = psutil.Process(process.pid).children()
    assert parts.query.removeprefix("token=") not in " ".join(child.cmdline())
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert not child.is_running()


def test_a_request_to_end_ends_the_server_too(served: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = served
    (child,) = psutil.Process(process.pid).children()
    process.terminate()
    process.wait(30)
    assert not child.is_running()


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder must be a folder that exists"):
        lab.run(tmp_path / "nowhere")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"lab\(port={port}\): port must be one that is free"):
            lab.run(tmp_path, port=port)
    with pytest.raises(ValueError, match="port must be one that is free"):
        lab.run(tmp_path, port=70000)


def test_without_the_course_it_opens_the_folder_itself(tmp_path: Path) -> None:
    assert lab.url(tmp_path, 80, "t") == "http://127.0.0.1:80/lab?token=t"
    assert not any("default_url" in word for word in lab.command(tmp_path, 80, browser=False))


def _answers(address: str) -> bool:
    parts = urllib.parse.urlsplit(address)
    try:
        urllib.request.urlopen(f"http://{parts.netloc}/api/status?{parts.query}", timeout=2).close()
    except OSError:
        return False
    return True


def _until(condition: object, words: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {seconds} s: {words}"
        time.sleep(0.1)
