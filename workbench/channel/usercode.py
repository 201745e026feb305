"""The user's own modules on an engine: found in the notebook's folder, imported again when a file has changed."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import sysconfig
from pathlib import Path
from typing import final


@final
class UserCode:
    """What this engine has imported from the folders of notebooks, and what the files looked like then."""

    def __init__(self) -> None:
        self._folder = ""
        self._seen: dict[str, str] = {}

    def enter(self, folder: str) -> None:
        """Make `folder` the working directory and the first place where modules are looked for, and forget modules that changed.

        Modules of the folder belong together: when one has changed, all are imported again, because the others may
        hold names of its old form.
        """
        if self._folder in sys.path:
            sys.path.remove(self._folder)
        self._folder = os.path.abspath(folder)
        sys.path.insert(0, self._folder)
        os.chdir(self._folder)
        here = self._mine()
        if any(self._seen.get(name) != digest for name, digest in here.items()):
            for name in here:
                del sys.modules[name]
                self._seen.pop(name, None)
        importlib.invalidate_caches()

    def remember(self) -> None:
        """Note what the files of the imported modules look like; to be called after the user's code has been imported."""
        self._seen.update({name: digest for name, digest in self._mine().items() if name not in self._seen})

    def _mine(self) -> dict[str, str]:
        """Module -> SHA-256 of its file ("" if it is gone), for the imported modules whose file lies in the folder."""
        # a notebook may lie in the home directory, and Python itself below it
        packages = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
        python = tuple({os.path.join(os.path.realpath(sysconfig.get_path(name)), "") for name in ("stdlib", "platstdlib")})
        digests = {}
        for name, module in sys.modules.copy().items():  # a copy at one stroke: other threads import meanwhile
            file = getattr(module, "__file__", None)
            if not file or name == "__main__" or name.partition(".")[0] == "workbench":
                continue
            path = os.path.abspath(file)
            mine = path.startswith(os.path.join(self._folder, "")) and not any(package in path for package in packages)
            if mine and not os.path.realpath(path).startswith(python):
                try:
                    digests[name] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                except OSError:
                    digests[name] = ""
        return digests
