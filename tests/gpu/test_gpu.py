"""On a CUDA device: binding before torch loads, one rank and two ranks on one GPU, staging through pinned memory, the CPU's losses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench import Cluster, Job
from workbench.channel.launch import find_mpi
from workbench.comm.staging import Staged

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here (torch.cuda.is_available() is False)"),
]


def losses(folder: Path, ranks: int, devices: str, job: Job) -> np.ndarray:
    """Mean loss of the workers at each step, from a cluster of its own."""
    with Cluster(ranks=ranks, devices=devices, name=f"gpu-test-{os.getpid()}-{devices}-{ranks}", folder=folder) as cluster:
        run = cluster.train(job).wait(timeout=120)
        frame = run.frame()
        status = cluster.status()
    if devices == "auto":
        assert all("GPU" in row.device for row in status.rows)
        assert all("pinned" in row.transport or "CUDA-aware" in row.transport for row in status.rows)
        if ranks > torch.cuda.device_count():
            assert any("shared" in row.device for row in status.rows), "ranks that share a GPU are shown as sharing it"
    return frame.groupby("step")["loss"].mean().to_numpy()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("model", ["mlp", "resnet20"])
def test_losses_are_those_of_the_cpu(tmp_path: Path, ranks: int, model: str) -> None:
    job = Job(model=model, steps=8, learning_rate=0.02)
    on_gpu, on_cpu = losses(tmp_path, ranks, "auto", job), losses(tmp_path, ranks, "cpu", job)
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0.02 if model == "resnet20" else 1e-3)


def test_gossip_mixes_on_the_gpu(tmp_path: Path) -> None:
    trained = losses(tmp_path, 2, "auto", Job(epochs=2, strategy="gossip"))
    assert trained[-5:].mean() < trained[:5].mean()


def test_a_gpu_tensor_is_staged_through_pinned_memory() -> None:
    tensor = torch.arange(1000, dtype=torch.float32, device="cuda")
    staged = Staged(tensor)
    staged.fetch()
    assert staged.host.shape == (1000,)
    assert staged._pinned.is_pinned()
    np.testing.assert_array_equal(staged.host, np.arange(1000, dtype=np.float32))
    staged.host *= 2
    staged.store()
    assert float(tensor.sum()) == 999 * 1000


def test_an_exchange_begins_when_the_device_has_computed_and_ends_without_waiting_for_what_comes_after() -> None:
    tensor, busy = torch.zeros(1000, device="cuda"), torch.ones(4096, 4096, device="cuda")
    staged = Staged(tensor)
    for _ in range(20):
        busy = (busy @ busy).tanh()
    tensor += 1 + busy.sum() * 0
    finish(staged.fetching())
    np.testing.assert_array_equal(staged.host, np.ones(1000, np.float32))
    staged.host += 1
    finish(staged.storing())
    assert float(tensor.sum()) == 2000


def finish(requests: tuple[Any, ...]) -> None:
    while not all(request.test() for request in requests):
        pass


def test_two_ranks_with_cuda_buffers_find_the_bits_of_the_host() -> None:
    mpi = find_mpi()
    command = [mpi.mpiexec, "-n", "2", *mpi.arguments(), sys.executable, "-m", "tests.gpu.ranks"]
    environment = os.environ | mpi.environment(2) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "laws kept on 2 ranks" in done.stdout


def test_the_binding_is_in_the_environment_before_torch_loads() -> None:
    code = (
        "import json, os, sys; from dataclasses import asdict; from workbench.training import devices; "
        "os.environ[devices.GPUS] = json.dumps([asdict(gpu) for gpu in devices.choose('auto')]); binding = devices.bind(); "
        "assert 'torch' not in sys.modules; import torch; "
        "print(os.environ['CUDA_VISIBLE_DEVICES'], torch.cuda.device_count(), devices.torch_device(binding))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert told[1:] == ["1", "cuda:0"] or told[1:] == ["1", "cuda"]


def test_nccl_makes_the_mean_or_says_who_shares_a_gpu() -> None:
    mpi = find_mpi()
    command = [mpi.mpiexec, "-n", "2", *mpi.arguments(), sys.executable, "-m", "tests.gpu.nccl"]
    environment = os.environ | mpi.environment(2) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    expected = "the mean" if torch.cuda.device_count() > 1 else "ranks 0 and 1 share one"
    assert done.stdout.count(expected) == 2, done.stdout + done.stderr
