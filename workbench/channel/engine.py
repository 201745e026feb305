"""The process behind a rank: `python -m workbench.channel.engine`, started by mpiexec once per rank.

An ipyparallel engine that binds its device before torch can load, loads torch while it registers, and answers the
workbench from the moment it is registered.
"""

from __future__ import annotations

from typing import Any

from ipyparallel.engine.app import IPEngine

from workbench.channel.runtime import Runtime
from workbench.training import devices


class Engine(IPEngine):  # type: ignore[misc]
    """ipyparallel's engine with the workbench's runtime in it."""

    def start_heartbeat(self, *args: Any, **options: Any) -> None:
        """Install the runtime, then let the hub know of this engine: it can be asked from the first moment."""
        self.runtime = Runtime(self.kernel, self.loop, devices.bound())
        self.runtime.install()
        super().start_heartbeat(*args, **options)


def main() -> None:
    """Run an engine until its cluster is stopped."""
    devices.bind()
    Engine.launch_instance()


if __name__ == "__main__":
    main()
