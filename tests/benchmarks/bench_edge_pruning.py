"""What a step of edge pruning costs, in plain passes of the unhooked model.

Run `python tests/benchmarks/bench_edge_pruning.py [--threads N] [--repeats N] [--device D]` with
nothing else running. A plain pass goes forward and backward down to the weights. A step is a step
of the optimisation, all of it: drawing the gates, ablated values, the circuit forward and backward,
and the optimiser's update. Memory is what autograd saves in a step for the backward pass, once for
each storage: beyond that of the model run with frozen weights, in units of all writers' outputs.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.ablation import Ablation, InterchangeAblation, MeanAblation
from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.baselines.edge_pruning.gates import EdgeGates
from sparse_lens.baselines.edge_pruning.training import Training
from sparse_lens.cost import CostMeter
from sparse_lens.graphs import ComponentGraph
from sparse_lens.objectives import KLDivergence, TaskLoss
from sparse_lens.patching import answer_logits, bind, frozen, patched
from sparse_lens.task import Prompts

N_PROMPTS, LENGTH, VOCABULARY = 8, 32, 1000


def make_model(device: str) -> HookedTransformer:
    """6 layers, d_model 512, 8 heads, random weights."""
    cfg = HookedTransformerConfig(
        n_layers=6,
        d_model=512,
        n_heads=8,
        d_head=64,
        n_ctx=64,
        d_vocab=VOCABULARY,
        act_fn="gelu_new",
        normalization_type="LN",
        seed=0,
        device=device,
    )
    return HookedTransformer(cfg)


def make_prompts(device: str) -> Prompts:
    """Random tokens, answered at the last position."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(VOCABULARY, (2, N_PROMPTS, LENGTH), generator=generator)
    answers, distractors = torch.randint(VOCABULARY // 2, (2, N_PROMPTS), generator=generator)
    return Prompts(
        clean=clean, corrupted=corrupted, answers=answers, distractors=distractors + 500
    ).to(device)


def step_of(
    model: HookedTransformer, prompts: Prompts, ablation: Ablation, *, writer_gates: bool
) -> Callable[[], object]:
    """A function that takes one step of a run whose gates are half open."""
    method = EdgePruning(
        objective=KLDivergence(),
        batch_size=N_PROMPTS,
        n_steps=10_000,
        initial_mean=0.5,
        writer_gates=writer_gates,
    )
    graph = ComponentGraph.from_model(model)
    gates = EdgeGates(graph, writers=writer_gates, device=model.cfg.device)
    training = Training(method, bind(model, graph, ablation), gates, prompts, None, 0)
    meter = CostMeter(model.cfg.device)

    def step() -> None:
        with frozen(model):
            training.history.append(training._step(meter))

    return step


def milliseconds(
    rows: dict[str, Callable[[], object]], *, repeats: int, device: str
) -> dict[str, float]:
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


@contextmanager
def saved_bytes() -> Iterator[dict[int, int]]:
    """Sizes of the storages that autograd saves inside the context, by their addresses."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def memory(model: HookedTransformer, prompts: Prompts, *, writer_gates: bool) -> float:
    """Bytes saved beyond the model's own, over the bytes of all writers' outputs.

    The store of the writers' outputs, which the backward pass reads without autograd's knowledge,
    is counted in full.
    """
    graph = ComponentGraph.from_model(model)
    gates = EdgeGates(graph, writers=writer_gates, device=model.cfg.device)
    leaf = torch.full((gates.n_gates,), 0.5, device=model.cfg.device, requires_grad=True)
    bound = bind(model, graph, InterchangeAblation())
    outputs = graph.n_writers * prompts.clean.numel() * model.cfg.d_model * 4
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def total(sizes: dict[int, int]) -> int:
        return sum(size for address, size in sizes.items() if address not in parameters)

    with frozen(model):
        with saved_bytes() as of_model:
            embedding = model.embed(prompts.clean) + model.pos_embed(prompts.clean)
            kept = model(embedding.requires_grad_(), start_at_layer=0)
        del kept
        masks = gates.masks(leaf)
        with patched(model, masks, ablation=bound, prompts=prompts), saved_bytes() as of_circuit:
            logits = answer_logits(model, prompts)
        del logits
    return (total(of_circuit) - total(of_model) + outputs) / outputs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, prompts = make_model(options.device), make_prompts(options.device)

    def plain() -> None:
        model.zero_grad(set_to_none=True)
        TaskLoss()(model(prompts.clean)[:, -1], prompts).mean().backward()

    mean = MeanAblation(tokens=prompts.corrupted)
    rows: dict[str, Callable[[], object]] = {
        "plain forward and backward": plain,
        "step, mean ablation": step_of(model, prompts, mean, writer_gates=False),
        "step, interchange": step_of(model, prompts, InterchangeAblation(), writer_gates=False),
        "step, interchange, gates on writers": step_of(
            model, prompts, InterchangeAblation(), writer_gates=True
        ),
    }
    times = milliseconds(rows, repeats=options.repeats, device=options.device)
    unit = times["plain forward and backward"]
    for name, time_ in times.items():
        print(f"{name:40}{time_:10.1f} ms{time_ / unit:8.2f}", flush=True)
    for writer_gates in (False, True):
        name = "saved for backward" + ", gates on writers" * writer_gates
        ratio = memory(model, prompts, writer_gates=writer_gates)
        print(f"{name:40}{ratio:21.2f} x the writers' outputs", flush=True)


if __name__ == "__main__":
    main()
