"""How the time and the memory of each method grow with the number of layers.

Run `python tests/benchmarks/bench_growth.py [--layers 2 4 8 12] [--device D] [--dtype T]` with
nothing else running. Each method discovers on the component graph of a model with random weights,
without a search for a circuit afterwards; those that learn gates take 10 steps. Every cell is a
process of its own, so that its peak of memory is its own, beyond what there was before the
discovery: on a CPU (of Linux) resident memory, on CUDA what PyTorch has allocated. The exponent is
the slope of a straight line through the logarithms: with 2, a model of twice the layers takes 4
times as much. The last column is the share of time outside matrix products, for the deepest model,
where profiling it does not take too long.

The number of edges grows with the square of the number of layers.
"""

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.ablation import InterchangeAblation
from sparse_lens.baselines import ACDC, AttributionPatching, EdgePruning
from sparse_lens.graphs import ComponentGraph
from sparse_lens.method import Method
from sparse_lens.node_pruning import NodePruning
from sparse_lens.task import Prompts, Task

METHODS: dict[str, Method] = {
    "EAP": AttributionPatching(),
    "EAP-IG, 5 steps": AttributionPatching(estimator="eap-ig-inputs"),
    "exact attribution": AttributionPatching(estimator="exact"),
    "node pruning": NodePruning(n_steps=10),
    "edge pruning": EdgePruning(n_steps=10),
    "ACDC": ACDC(thresholds=0.003),
}
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear", "einsum", "scaled_dot_product")
VOCABULARY = 500
LONG = 10.0
"""Seconds, beyond which a discovery is not run again under the profiler."""


@dataclass(frozen=True)
class Shape:
    """A model of random weights, and where it runs."""

    n_layers: int
    d_model: int
    n_heads: int
    device: str
    dtype: str
    threads: int

    def model(self) -> HookedTransformer:
        """With weights large enough that its parts matter to each other."""
        cfg = HookedTransformerConfig(
            n_layers=self.n_layers,
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_head=self.d_model // self.n_heads,
            n_ctx=16,
            d_vocab=VOCABULARY,
            act_fn="gelu_new",
            normalization_type="LN",
            seed=0,
            device=self.device,
            dtype=getattr(torch, self.dtype),
        )
        model = HookedTransformer(cfg)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".W_" in name:
                    parameter *= 2
        return model


@dataclass(frozen=True)
class Cell:
    """What one discovery took."""

    seconds: float
    peak: int
    """Bytes."""

    outside_products: float | None


def task() -> Task:
    """8 random prompts of 16 tokens, corrupted in two places."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(VOCABULARY, (8, 16), generator=generator)
    corrupted = clean.clone()
    corrupted[:, [5, 14]] = torch.randint(VOCABULARY, (8, 2), generator=generator)
    answers = torch.arange(8)
    prompts = Prompts(clean=clean, corrupted=corrupted, answers=answers, distractors=answers + 8)
    return Task("random", train=prompts)


def measure(name: str, shape: Shape, profiled: bool) -> Cell:
    """In a process that does nothing else."""
    torch.set_num_threads(shape.threads)
    model = shape.model()
    graph, prompts = ComponentGraph.from_model(model), task()

    def discover(method: Method) -> float:
        started = time.perf_counter()
        found = method.discover(model, graph, prompts, ablation=InterchangeAblation())
        assert found.chosen is None or name == "ACDC"
        return time.perf_counter() - started

    discover(AttributionPatching())  # what is set up once
    before = _reset_peak(shape.device)
    seconds = discover(METHODS[name])
    peak = _peak(shape.device) - before
    profiled &= seconds < LONG
    return Cell(seconds, peak, _outside(lambda: discover(METHODS[name])) if profiled else None)


def _reset_peak(device: str) -> int:
    """Start the measurement of the peak anew; the memory in use now, in bytes."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak(device)


def _peak(device: str) -> int:
    """The most memory in use since, in bytes; of the CPU as Linux tells it."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _outside(run: Callable[[], object]) -> float:
    """Share of the time of all operations that are no matrix products."""
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        run()
    spent = {
        event.key: event.self_device_time_total if cuda else event.self_cpu_time_total
        for event in found.key_averages()
    }
    products = sum(t for name, t in spent.items() if name.removeprefix("aten::") in PRODUCTS)
    return 1 - products / sum(spent.values())


def exponent(layers: list[int], values: list[float]) -> float:
    """The slope of the least-squares line through the logarithms."""
    if min(values) <= 0:
        return math.nan
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (layers, values))
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", nargs="+", type=int, default=[2, 4, 8, 12])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    shapes = [
        Shape(n, options.d_model, options.heads, options.device, options.dtype, options.threads)
        for n in options.layers
    ]
    heads = "".join(f"{f'{n} layers':>20}" for n in options.layers)
    print(f"{'':20}{heads}{'exponents':>14}{'no product':>12}", flush=True)
    for name in options.methods:
        cells = []
        for shape in shapes:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                cells.append(pool.apply(measure, (name, shape, shape is shapes[-1])))
        columns = "".join(f"{c.seconds:10.2f} s{c.peak / 2**20:6.0f} M" for c in cells)
        slopes = [
            exponent(options.layers, values)
            for values in ([c.seconds for c in cells], [float(c.peak) for c in cells])
        ]
        outside = cells[-1].outside_products
        share = "-" if outside is None else f"{outside:.0%}"
        print(f"{name:20}{columns}{slopes[0]:7.2f}{slopes[1]:7.2f}{share:>12}", flush=True)


if __name__ == "__main__":
    main()
