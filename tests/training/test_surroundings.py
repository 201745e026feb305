from __future__ import annotations

import torch

from workbench.training import surroundings


def test_what_a_run_has_set_for_all_of_torch_is_taken_back() -> None:
    surroundings.reset()
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.set_num_threads(threads + 1)
    torch.use_deterministic_algorithms(True)
    surroundings.reset()
    assert torch.zeros(1).dtype == torch.float32
    assert torch.zeros(1).device.type == "cpu"
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
