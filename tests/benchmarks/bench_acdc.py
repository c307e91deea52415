"""ACDC in batches against one edge at a time: seconds, passes, and whether the circuits agree.

Run `python tests/benchmarks/bench_acdc.py` with nothing else running. The loop keeps the prefix:
for each edge it computes all heads and MLPs from the edge's layer on, and it leaves out edges into
nodes that no longer reach the output. With `--every 20` it computes only every 20th of its edges
(our decisions stand in for the others) and its times are multiplied by 20. The times of both
include what comes before the first edge. They take turns, and each row has the least of
`--repeats` times.
"""

import argparse
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.ablation import InterchangeAblation
from sparse_lens.baselines.acdc.batched import run_in_batches
from sparse_lens.baselines.acdc.order import sublayers_from_the_output
from sparse_lens.baselines.acdc.pruning_run import Rule, Run
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ComponentGraph
from sparse_lens.graphs.reachability import Acting
from sparse_lens.objectives import KLDivergence
from sparse_lens.patching import BoundAblation, bind, full_logits
from sparse_lens.patching.incremental.frame import Frame
from sparse_lens.task import Prompts

SHAPES = {
    "small": {"n_layers": 4, "d_model": 128, "n_heads": 4, "d_head": 32},
    "large": {"n_layers": 6, "d_model": 256, "n_heads": 8, "d_head": 32},
}
VOCAB = 500


def model_of(shape: str, scale: float) -> HookedTransformer:
    """Random weights, `scale` times as large as TransformerLens draws them."""
    cfg = HookedTransformerConfig(
        **SHAPES[shape],  # type: ignore[arg-type]
        n_ctx=16,
        d_vocab=VOCAB,
        act_fn="gelu",
        normalization_type="LN",
        device="cpu",
        seed=0,
    )
    model = HookedTransformer(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".W_" in name:
                parameter *= scale
    return model


def prompts_of(n: int = 8, length: int = 16) -> Prompts:
    """Random prompts, corrupted in two places."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(VOCAB, (n, length), generator=generator)
    corrupted = clean.clone()
    corrupted[:, [length // 3, length - 2]] = torch.randint(VOCAB, (n, 2), generator=generator)
    answers = torch.arange(n)
    return Prompts(clean=clean, corrupted=corrupted, answers=answers, distractors=answers + n)


class Suffix:
    """A circuit whose layers are computed as a whole, from any layer on."""

    def __init__(self, bound: BoundAblation, prompts: Prompts) -> None:
        graph = bound.graph
        assert isinstance(graph, ComponentGraph)
        self.graph, self.frame = graph, Frame(bound, prompts, skip_shared=False)
        self.differences = self.frame.embedded.inputs.new_zeros(graph.n_writers, *self.frame.shape)
        self._note(slice(0, graph.n_inputs), self.frame.embedded.inputs)

    @torch.no_grad()
    def logits(self, kept: Tensor, *, first_row: int) -> Tensor:
        """Of a circuit that differs from the one before at this reader, or later ones."""
        graph, frame = self.graph, self.frame
        heads = list(range(graph.n_heads))
        for sublayer in graph.sublayers:
            if first_row >= sublayer.readers.stop:
                continue
            parts, streams = frame.layers[sublayer.layer], self._streams(kept, sublayer.readers)
            if sublayer.kind == "mlp":
                self._note(sublayer.writers, parts.mlp(streams[0], None)[None])
                continue
            readers = tuple(range(3 * graph.n_heads))
            projected = parts.project(readers, parts.read_(streams.flatten(1, 2), None))
            # [qkv, head, variant, batch, pos, d_head], of one variant
            q, k, v = projected.view(3, graph.n_heads, 1, *frame.shape[:2], graph.d_head)
            z = parts.attention.by_module(heads, q, k, v, None)
            live = parts.write(heads, z.flatten(1, -2)).view(graph.n_heads, *frame.shape)
            self._note(sublayer.writers, live)
        last = self._streams(kept, graph.logits_reader)
        return frame.logits(frame.answers.take(last))[0]

    def _note(self, writers: slice, live: Tensor) -> None:
        self.differences[writers] = self.frame.ablated.of_writers(writers) - live

    def _streams(self, kept: Tensor, rows: slice) -> Tensor:
        weights = kept[rows].to(self.differences)
        streams = (weights @ self.differences.flatten(1)).view(-1, *self.frame.shape)
        n_before = self.graph.n_before(rows.start)
        return self.frame.ablated_stream(n_before, all_positions=True) - streams


@dataclass
class Loop:
    """What the loop over single edges came to."""

    kept: Tensor
    seconds: float
    cpu_seconds: float
    n_edges: int


def loop(bound: BoundAblation, prompts: Prompts, rule: Rule, *, every: int, ours: Run) -> Loop:
    """One edge at a time, the prefix kept; our decisions stand in for edges that are left out."""
    graph: Any = bound.graph
    start, cpu_start = time.perf_counter(), time.process_time()
    suffix, full = Suffix(bound, prompts), full_logits(bound.model, prompts)
    kept, known = graph.edge_support["edges"].clone(), ours.circuit.edge_mask("edges")

    def loss(row: int) -> float:
        return float(KLDivergence()(suffix.logits(kept, first_row=row), prompts, full).mean())

    count, seconds, cpu_seconds = 0, 0.0, 0.0
    before = loss(0)
    first, cpu_first = time.perf_counter() - start, time.process_time() - cpu_start
    for _, rows in sublayers_from_the_output(graph):
        for row in rows:
            if not Acting.of(graph, kept.numpy()).readers[row]:
                kept[row] = False
                continue
            for writer in kept[row].nonzero().flatten().flip(0).tolist():
                count += 1
                kept[row, writer] = False
                if count % every:
                    kept[row, writer] = known[row, writer]
                    continue
                if every > 1:
                    kept[row, writer] = True
                    before = loss(row)  # not timed
                    kept[row, writer] = False
                start, cpu_start = time.perf_counter(), time.process_time()
                after = loss(row)
                seconds += time.perf_counter() - start
                cpu_seconds += time.process_time() - cpu_start
                if rule.removes(after - before):
                    before = after
                else:
                    kept[row, writer] = True
    return Loop(kept, first + every * seconds, cpu_first + every * cpu_seconds, count)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--scales", nargs="+", type=float, default=[2.0, 3.0])
    parser.add_argument("--threshold", type=float, default=0.003)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = ("edges", "kept", "tested", "passes", "seconds", "CPU s", "loop/ours", "(CPU)", "same")
    print(f"{'shape':20}" + "".join(f"{name:>10}" for name in names))
    for shape in options.shapes:
        for scale in options.scales:
            model, prompts = model_of(shape, scale), prompts_of()
            graph = ComponentGraph.from_model(model)
            bound, rule = bind(model, graph, InterchangeAblation()), Rule(options.threshold, False)
            times, loops = [], []
            for _ in range(options.repeats):
                start, cpu_start = time.perf_counter(), time.process_time()
                ours = run_in_batches(
                    bound, prompts, KLDivergence(), Circuit.full(graph), rule, max_tokens=2**13
                )
                times.append((time.perf_counter() - start, time.process_time() - cpu_start))
                loops.append(loop(bound, prompts, rule, every=options.every, ours=ours))
            seconds, cpu_seconds = (min(column) for column in zip(*times, strict=True))
            loop_seconds = min(one.seconds for one in loops)
            loop_cpu_seconds = min(one.cpu_seconds for one in loops)
            other = loops[-1]
            same = torch.equal(other.kept, ours.circuit.edge_mask("edges"))
            cells = (
                f"{graph.n_edges:10}{ours.circuit.n_edges:10}{len(ours.changes):10}"
                f"{ours.n_passes:10}{seconds:10.2f}{cpu_seconds:10.2f}"
                f"{loop_seconds / seconds:10.1f}{loop_cpu_seconds / cpu_seconds:10.1f}"
                f"{'yes' if same else 'NO':>10}"
            )
            print(f"{shape + ', x' + str(scale):20}{cells}", flush=True)


if __name__ == "__main__":
    main()
