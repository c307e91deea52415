"""What circuits and their gradients cost, in plain passes of the unhooked model.

Run `python tests/benchmarks/bench_patching.py [--threads N] [--device D] [--dtype T] [--shape S]`
with nothing else running. A plain pass runs the model as TransformerLens makes it, with all its
logits; backward goes down to the weights. Repeats of all rows are interleaved and the fastest of
each counts, so that a ratio compares what ran side by side.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

import sparse_lens as sl
from sparse_lens.patching import (
    BoundAblation,
    GradientPoints,
    answer_logits,
    bind,
    edge_effects,
    frozen,
    patched,
)

SHAPES: dict[str, dict[str, Any]] = {
    "6x512": {"n_layers": 6, "d_model": 512, "n_heads": 8, "d_head": 64},
    "12x768": {"n_layers": 12, "d_model": 768, "n_heads": 12, "d_head": 64},
}
N_PROMPTS, LENGTH, VOCABULARY = 8, 32, 1000

Rows = dict[str, Callable[[], object]]


def make_model(shape: str, device: str, dtype: torch.dtype) -> HookedTransformer:
    """A dense model with random weights."""
    cfg = HookedTransformerConfig(
        **SHAPES[shape],
        n_ctx=64,
        d_vocab=VOCABULARY,
        act_fn="gelu_new",
        normalization_type="LN",
        seed=0,
        device=device,
        dtype=dtype,
    )
    return HookedTransformer(cfg)


def make_prompts(device: str) -> sl.Prompts:
    """Random tokens, answered at the last position."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(VOCABULARY, (2, N_PROMPTS, LENGTH), generator=generator)
    answers, distractors = torch.randint(VOCABULARY // 2, (2, N_PROMPTS), generator=generator)
    return sl.Prompts(
        clean=clean, corrupted=corrupted, answers=answers, distractors=distractors + 500
    ).to(device)


def rows_of(model: HookedTransformer, prompts: sl.Prompts) -> tuple[Rows, Rows]:
    """What is timed: forward passes, and passes forward and backward; the plain ones come first."""
    graph = sl.ComponentGraph.from_model(model)
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(graph.n_readers, graph.n_writers, generator=generator) < 0.5
    circuit = sl.Circuit.from_edge_masks(graph, {"edges": kept & graph.edge_support["edges"]})
    mean = bind(model, graph, sl.MeanAblation(tokens=prompts.corrupted))
    interchange = bind(model, graph, sl.InterchangeAblation())

    @torch.no_grad()
    def plain() -> Tensor:
        return model(prompts.clean)

    @torch.no_grad()
    def run(ablation: BoundAblation) -> Tensor:
        return sl.run_circuit(model, circuit, prompts, ablation=ablation)

    def plain_backward() -> None:
        model.zero_grad(set_to_none=True)
        sl.TaskLoss()(model(prompts.clean)[:, -1], prompts).mean().backward()

    channels = sl.ChannelGraph.from_model(model)
    channel_mean = bind(model, channels, sl.MeanAblation(tokens=prompts.corrupted))

    def node_pruning_step() -> None:
        gates = {
            name: torch.ones(site.width, device=prompts.clean.device, requires_grad=True)
            for name, site in channels.sites.items()
        }
        masks = sl.Masks(channels, gates, {})
        with frozen(model), patched(model, masks, ablation=channel_mean, prompts=prompts):
            sl.TaskLoss()(answer_logits(model, prompts), prompts).mean().backward()

    def effects(ablation: BoundAblation, points: GradientPoints | None = None) -> object:
        return edge_effects(ablation, prompts, sl.TaskLoss(), points=points, copies=5)

    five = GradientPoints(tuple(k / 5 for k in range(5)))
    forward: Rows = {
        "plain forward": plain,
        "circuit of half the edges, mean ablation": lambda: run(mean),
        "the same, interchange (with the corrupted run)": lambda: run(interchange),
    }
    backward: Rows = {
        "plain forward and backward": plain_backward,
        "EAP, mean ablation": lambda: effects(mean),
        "EAP, interchange": lambda: effects(interchange),
        "EAP-IG, 5 steps, mean ablation": lambda: effects(mean, five),
        "EAP-IG, 5 steps, interchange": lambda: effects(interchange, five),
        "node-pruning step on the channel graph": node_pruning_step,
    }
    return forward, backward


def milliseconds(rows: Rows, *, repeats: int, device: str) -> dict[str, float]:
    """The fastest of some runs of each row, the rows in turn."""
    best = dict.fromkeys(rows, float("inf"))
    for _ in range(repeats + 1):  # the first is a warm-up, and never the fastest
        for name, function in rows.items():
            start = time.perf_counter()
            function()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: 1e3 * seconds for name, seconds in best.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_KEEP_LINES)
    parser.add_argument("--shape", choices=SHAPES, default="6x512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = make_model(arguments.shape, arguments.device, getattr(torch, arguments.dtype))
    for rows in rows_of(model, make_prompts(arguments.device)):
        times = milliseconds(rows, repeats=arguments.repeats, device=arguments.device)
        plain = next(iter(times.values()))
        for name, time_ in times.items():
            sys.stdout.write(f"{name:50}{time_:10.1f} ms{time_ / plain:8.2f}\n")


_KEEP_LINES = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
