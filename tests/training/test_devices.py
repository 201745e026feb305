from __future__ import annotations

import json

import pytest

from workbench.training import devices
from workbench.training.devices import Binding, Gpu

TWO = [Gpu("GPU-a", "NVIDIA A", 0), Gpu("GPU-b", "NVIDIA B", 1)]
MIG = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa)
  MIG 1g.18gb     Device  0: (UUID: MIG-1111)
  MIG 1g.18gb     Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb)
"""


@pytest.mark.parametrize("given", ["gpu", [], [-1], [True], ["cuda"], 3, None])
def test_what_devices_may_be_is_said(given: object) -> None:
    with pytest.raises(ValueError, match='devices must be "auto", "cpu" or a list such as'):
        devices.check_devices(given)  # type: ignore[arg-type]


def test_smi_lists_the_slices_of_a_cut_gpu() -> None:
    assert devices.parse_smi(MIG) == [("MIG-1111", "NVIDIA H200 MIG 1g.18gb"), ("MIG-2222", "NVIDIA H200 MIG 1g.18gb"), ("GPU-bbbb", "NVIDIA H200")]


def test_only_visible_gpus_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_from_smi", lambda: [("GPU-a", "A"), ("GPU-b", "B"), ("GPU-c", "C")])
    assert [g.token for g in devices.visible_gpus({})] == ["GPU-a", "GPU-b", "GPU-c"]
    assert devices.visible_gpus({"CUDA_VISIBLE_DEVICES": "2,GPU-a"}) == [Gpu("GPU-c", "C", 0), Gpu("GPU-a", "A", 1)]
    assert devices.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert [g.token for g in devices.visible_gpus({"CUDA_VISIBLE_DEVICES": "1,7,0"})] == ["GPU-b"], "CUDA ends the list at a wrong number"


def test_a_list_chooses_gpus_and_names_those_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_torch_for_cpu", lambda: False)
    assert devices.choose((1, "GPU-a"), TWO) == [TWO[1], TWO[0]]
    assert devices.choose("auto", TWO) == TWO
    assert devices.choose("cpu", TWO) == []
    with pytest.raises(ValueError, match=r"no GPU 2 here; visible GPUs: 0 \(NVIDIA A\), 1 \(NVIDIA B\)"):
        devices.choose((2,), TWO)
    monkeypatch.setattr(devices, "_torch_for_cpu", lambda: True)
    assert devices.choose("auto", TWO) == [], "a torch without CUDA trains on processors"
    with pytest.raises(ValueError, match="built for processors only"):
        devices.choose((0,), TWO)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMI_RANK": "7"}, (3, 4)),
        ({"MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2", "PMI_RANK": "5"}, (1, 2)),
        ({"SLURM_LOCALID": "0", "SLURM_NTASKS_PER_NODE": "2(x3)"}, (0, 2)),
        ({}, (0, 1)),
    ],
)
def test_the_launcher_says_the_local_rank(environ: dict[str, str], expected: tuple[int, int]) -> None:
    assert devices.local_rank(environ) == expected


def test_ranks_take_gpus_in_turn_and_sharing_is_shown() -> None:
    labels = []
    for rank in range(3):
        environ = {
            devices.GPUS: json.dumps([gpu.__dict__ for gpu in TWO]),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
            "OMPI_COMM_WORLD_LOCAL_SIZE": "3",
        }
        binding = devices.bind(environ)
        assert environ["CUDA_VISIBLE_DEVICES"] == TWO[rank % 2].token
        assert devices.bound(environ) == binding
        labels.append(binding.label)
    assert labels == ["GPU 0, NVIDIA A, shared by 2 ranks", "GPU 1, NVIDIA B", "GPU 0, NVIDIA A, shared by 2 ranks"]


def test_processors_hide_the_gpus() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "0"}
    assert devices.bind(environ) == Binding()
    assert environ["CUDA_VISIBLE_DEVICES"] == ""
    assert devices.bound({}).label == "CPU"
    assert devices.transport(Binding()) == "host"
    assert str(devices.torch_device(Binding())) == "cpu"
