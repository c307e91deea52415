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


def test_a_meter_keeps_its_peak_when_another_starts_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a device that, as CUDA does, has one peak for all."""
    used = peak = 0

    def use(*amounts: int) -> None:
        nonlocal used, peak
        used, peak = amounts[-1], max(peak, *amounts)

    def reset(device: torch.device) -> None:
        nonlocal peak
        peak = used

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    model = tiny.dense_model()
    monkeypatch.setattr(model.cfg, "device", "cuda")
    peaks = []
    with metered(model) as outer:
        use(9, 1)
        with metered(model) as middle:
            use(5, 1)
            with metered(model) as inner:
                use(3, 1)
                peaks += [inner.cost().peak_memory]
            peaks += [middle.cost().peak_memory]
        peaks += [outer.cost().peak_memory]
        with metered(model) as inner:
            use(20, 1)
        peaks += [inner.cost().peak_memory, outer.cost().peak_memory]
    with metered(model) as after:
        peaks += [after.cost().peak_memory]
    assert peaks == [3, 5, 9, 20, 20, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is measured on CUDA devices")
def test_peak_memory() -> None:
    meter = CostMeter("cuda")
    block = torch.zeros(2**20, device="cuda")
    peak = meter.cost().peak_memory
    assert peak is not None
    assert peak >= block.numel() * block.element_size()
