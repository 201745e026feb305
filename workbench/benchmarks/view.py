"""What the live panel costs the notebook's kernel: a real kernel with a bench in it, and a stand-in for the page that receives all."""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final, final

import psutil
from jupyter_client.manager import start_new_kernel

from workbench.benchmarks.figures import Figure

SHOW: Final = """
from workbench_widgets import Bench
bench = Bench(cluster)
view = bench.run_panel.view.model_id
"""

REPLAYED: Final = """
from types import SimpleNamespace
from workbench.cluster.status import ClusterStatus
from workbench.runs.replay import replay
cluster = SimpleNamespace(name="replay", ranks=8, run=replay({folder!r}).run(), status=lambda: ClusterStatus("replay", 8, "replay", "up"))
"""

REAL: Final = """
from workbench import Cluster, Job
cluster = Cluster(4, name={name!r}, folder={folder!r}).start()
cluster.train(Job(model="resnet20", data="digits", batch_size=32, steps=10**6))
"""


def measure(quick: bool = False) -> list[Figure]:
    """CPU and memory of the kernel process while 8 replayed and 4 real ranks stream into a bench that somebody looks at."""
    seconds = 20.0 if quick else 600.0
    folder = _recorded(seconds + 20)
    with Kernel() as kernel:
        kernel.run(REPLAYED.format(folder=str(folder)) + SHOW)
        replayed, growth, messages = kernel.watch(seconds)
    with Kernel() as kernel:
        kernel.run(REAL.format(name=f"bench-view-{os.getpid()}", folder=str(folder.parent)) + SHOW)
        real, _, _ = kernel.watch(min(seconds, 30.0))
        kernel.run("bench.close(); cluster.stop()")
    return [
        Figure.at_most("kernel: share of a core, 8 replayed ranks", 100 * replayed, 5, "%", f"{messages:.1f} plot messages/s, {seconds:.0f} s"),
        Figure.at_most("kernel: share of a core, 4 real ranks", 100 * real, 5, "%"),
        Figure.at_most("kernel: memory growth after the first fifth", 100 * growth, 10, "%", f"over {0.8 * seconds:.0f} s"),
    ]


@final
class Kernel:
    """A Jupyter kernel, and a page that says hello to its plots and confirms what it gets, as a browser does."""

    def __init__(self) -> None:
        self._manager, self._client = start_new_kernel(kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=ERROR"])
        self._process = psutil.Process(self._manager.provisioner.pid)  # type: ignore[union-attr]
        self._view = ""

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def run(self, code: str) -> None:
        """Run a cell to its end; raises what it raised. A bench in it becomes the one that is watched."""
        told = self._client.execute_interactive(
            code, store_history=False, user_expressions={"view": "view"}, output_hook=lambda message: None, timeout=120
        )["content"]
        if told["status"] != "ok":
            raise RuntimeError("\n".join(told["traceback"]))
        shown = told["user_expressions"]["view"]
        if shown["status"] == "ok":
            self._view = shown["data"]["text/plain"].strip("'")

    def watch(self, seconds: float) -> tuple[float, float, float]:
        """(share of a core, growth of memory as a share, plot messages per second) while the page looks on for so long."""
        self._say("hello", -1)
        self._listen(3.0)
        cpu, start = sum(self._process.cpu_times()[:2]), time.perf_counter()
        memory, patches = [], 0
        while (spent := time.perf_counter() - start) < seconds:
            patches += self._listen(2.0)
            if spent >= seconds / 5:
                memory.append(float(self._process.memory_info().rss))
        wall = time.perf_counter() - start
        third = max(1, len(memory) // 3)
        growth = median(memory[-third:]) / median(memory[:third]) - 1
        return (sum(self._process.cpu_times()[:2]) - cpu) / wall, growth, patches / wall

    def _listen(self, seconds: float) -> int:
        """Take in what comes for so long, then confirm it; the number of plot messages."""
        until, patches, seq = time.perf_counter() + seconds, 0, -1
        while (left := until - time.perf_counter()) > 0:
            with contextlib.suppress(queue.Empty):
                message = self._client.get_iopub_msg(timeout=left)
                content = message["content"]
                if message["msg_type"] == "comm_msg" and content["comm_id"] == self._view:
                    told: dict[str, Any] = content["data"].get("content", {})
                    patches += told.get("kind") == "patch"
                    seq = max(seq, int(told.get("seq", -1)))
        if seq >= 0:
            self._say("seen", seq)
        return patches

    def _say(self, kind: str, seq: int) -> None:
        word = {"kind": kind, "view": "benchmark", "seq": seq, "visible": True}
        message = self._client.session.msg("comm_msg", {"comm_id": self._view, "data": {"method": "custom", "content": word}})
        self._client.shell_channel.send(message)


def _recorded(seconds: float) -> Path:
    """The folder of a run of 8 virtual ranks that do 50 steps in each virtual second."""
    from workbench.cluster.virtual import VirtualCluster
    from workbench.comm.network import Device
    from workbench.job import Job

    with VirtualCluster(8, device=Device(seconds_per_sample=1 / 400, seconds_per_update=0), folder=tempfile.mkdtemp(prefix="bench-")) as cluster:
        return cluster.train(Job(batch_size=8, steps=int(50 * seconds))).wait().folder
