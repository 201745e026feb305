"""What a run's folder is called."""

from __future__ import annotations

from workbench.job import Job


def label_of(job: Job) -> str:
    """The words of a job in the name of its run's folder: "synchronous ring"."""
    told = job.to_json()["strategy"]
    collective = told.get("collective")
    return f"{told['kind']} {collective['kind'] if isinstance(collective, dict) else collective or ''}".strip()
