"""The faults of a run as its job tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from workbench.faults import FAULTS


def faults_in(job: Mapping[str, Any]) -> str:
    """What goes wrong on which worker, in words: "rank 1 slowed 4x"; empty without faults. One that this version does not know is its kind."""
    told = job.get("faults")
    return ", ".join(_words(each) for each in told if isinstance(each, Mapping)) if isinstance(told, list) else ""


def _words(told: Mapping[str, Any]) -> str:
    options = dict(told)
    kind = str(options.pop("kind", "not known"))
    with suppress(ValueError):
        if kind in FAULTS:
            fault = FAULTS[kind].from_json(options)
            return f"rank {fault.rank} {fault.words}"
    return kind
