"""What a run's folder is called."""

from __future__ import annotations

from workbench.job import Job


def label_of(job: Job) -> str:
    """The words of a job in the name of its run's folder: "synchronous ring", "synchronous ring top-k overlap"."""
    told = job.to_json()["strategy"]
    kinds = [told["kind"], *(value["kind"] for value in told.values() if isinstance(value, dict) and "kind" in value)]
    return " ".join([*(kind for kind in kinds if kind != "float32"), *(["overlap"] if told.get("overlap") else [])])
