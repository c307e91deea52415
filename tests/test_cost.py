"""How costs are counted."""

import pytest
import torch

from sparse_lens.cost import Cost, CostMeter, metered
from tests.graphs import tiny


def test_passes_inside_the_context_are_counted() -> None:
    model, tokens = tiny.dense_model(), torch.zeros(1, 4, dtype=torch.long)
    model(tokens)
    with metered(model) as meter:
        assert meter.cost().forward_passes == 0
        model(tokens)
        model.run_with_cache(tokens)
        model.run_with_hooks(tokens)
        meter.backward_passes += 2
        cost = meter.cost()
    model(tokens)
    assert (cost.forward_passes, cost.backward_passes) == (3, 2)
    assert meter.forward_passes == 3


def test_counting_ends_with_an_exception() -> None:
    model, tokens = tiny.dense_model(), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(RuntimeError, match="on purpose"), metered(model) as meter:
        raise RuntimeError("on purpose")
    model(tokens)
    assert meter.forward_passes == 0
    assert not model.blocks[0]._forward_pre_hooks


def test_seconds_go_on_and_memory_is_a_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.5, 14.0])
    monkeypatch.setattr("sparse_lens.cost.time.perf_counter", lambda: next(clock))
    meter = CostMeter("cpu")
    assert meter.cost() == Cost(seconds=2.5)
    assert meter.cost() == Cost(seconds=4.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is measured on CUDA devices")
def test_peak_memory() -> None:
    meter = CostMeter("cuda")
    block = torch.zeros(2**20, device="cuda")
    peak = meter.cost().peak_memory
    assert peak is not None
    assert peak >= block.numel() * block.element_size()
