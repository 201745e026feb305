"""Checks that ipyparallel still has the names, not public, that this room uses."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final

from workbench.errors import WorkbenchError

METHODS: Final = ("_send", "_dispatch_iopub", "_setup_streams", "_register_engine", "_unregister_engine", "send_signal", "shutdown", "close")
TRAITS: Final = ("_engines", "_registration_callbacks", "_io_loop", "_ids")
STREAMS: Final = ("_control_stream", "_iopub_stream")


def missing() -> list[str]:
    """The names that are not there (any more), as a person would look for them; none: all is well."""
    from ipykernel.kernelbase import Kernel
    from ipyparallel import Client
    from ipyparallel.cluster.launcher import LocalProcessLauncher
    from ipyparallel.engine.app import IPEngine

    gone = [f"Client.{name}" for name in METHODS if not callable(getattr(Client, name, None))]
    traits: dict[str, Any] = Client.class_traits()
    gone += [f"Client.{name}" for name in TRAITS if name not in traits]
    if "Client._setup_streams" not in gone:
        gone += [f"Client.{name}" for name in STREAMS if name not in Client._setup_streams.__code__.co_names]
    if "Client._send" not in gone:
        known = inspect.signature(Client._send).parameters
        gone += [f"Client._send({name})" for name in ("socket", "msg_type", "content", "ident") if name not in known]
    if list(inspect.signature(IPEngine.start_heartbeat).parameters)[1:] != ["hb_ping", "hb_pong", "hb_period", "identity"]:
        gone.append("IPEngine.start_heartbeat(hb_ping, hb_pong, hb_period, identity)")
    gone += [f"LocalProcessLauncher.{name}" for name in ("_popen_process", "_output") if not hasattr(LocalProcessLauncher, name)]
    if "control_handlers" not in inspect.getsource(Kernel.process_control):
        gone.append("Kernel.control_handlers")
    return gone


@functools.cache
def check() -> None:
    """WorkbenchError that names what is missing and the release that has it."""
    gone = missing()
    if gone:
        import ipyparallel

        raise WorkbenchError(
            f"ipyparallel {ipyparallel.__version__} has no {', '.join(gone)}, which the workbench uses. "
            'Install the release that it was written for: pip install "ipyparallel>=9.2,<9.3"'
        )
