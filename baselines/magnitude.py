"""The control that looks at weights alone: the largest ones are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.cost import CostMeter
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import EDGES, LETTERS, ComponentGraph
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import BoundAblation
from sparse_lens.ranking_method import Ranking, RankingMethod
from sparse_lens.scores import Scores
from sparse_lens.task import Task


@dataclass(frozen=True)
class MagnitudeScores(RankingMethod):
    """Sizes of weights: what can be said without any prompt.

    On a channel graph a node's score is the root of the sum of squares of its edges' weights (of
    the unembedding's for `final_resid`), and an edge's is the size of its weight. On a component
    graph an edge's score is the Frobenius norm of the product of what its writer writes with and
    its reader reads with (the composition of Elhage et al. 2021, not normalised).
    """

    objective: Objective = TaskLoss()
    """Not used; the target is a task loss for every method."""

    edges: bool = False
    """Score the edges of a channel graph instead of its nodes."""

    def rank(self, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter) -> Ranking:
        """Measure weights."""
        return Ranking(magnitude_scores(bound.model, bound.graph, edges=self.edges))


@torch.no_grad()
def magnitude_scores(model: HookedTransformer, graph: Graph, *, edges: bool = False) -> Scores:
    """See :class:`MagnitudeScores`.

    Raises:
        ValueError: for a component graph of a mixture of experts, which reads and writes with no
            matrix of its own, and for a graph of another kind.
    """
    if isinstance(graph, ComponentGraph):
        return Scores(graph, edges={EDGES: _compositions(model, graph)})
    if not isinstance(graph, ChannelGraph):
        raise ValueError(f"magnitudes are of component and channel graphs, got {graph}.")
    sizes = {block: weight.abs().float() for block, weight in graph.edge_weights(model).items()}
    return Scores(graph, edges=sizes) if edges else Scores(graph, nodes=_norms(model, graph, sizes))


def _norms(
    model: HookedTransformer, graph: ChannelGraph, sizes: dict[str, Float[Tensor, "dst src"]]
) -> dict[str, Float[Tensor, " width"]]:
    squares = torch.zeros(graph.n_nodes)
    for name, size in sizes.items():
        block, square = graph.blocks[name], size.square().cpu()
        squares[block.dst_nodes] += square.sum(1)
        squares[block.src_nodes] += square.sum(0)
    if graph.has_final_resid:
        squares[graph.node_slices["final_resid"]] = model.W_U.float().square().sum(1).cpu()
    return graph.unflatten(squares.sqrt())


def _compositions(
    model: HookedTransformer, graph: ComponentGraph
) -> Float[Tensor, "readers writers"]:
    if model.cfg.num_experts:
        raise ValueError("a mixture of experts has no one matrix: no magnitudes of its edges.")
    # |W R|^2 = <W'W, RR'>, and these are small where W has a row for every token.
    writers = torch.stack([(w.T @ w).flatten() for w in _write_matrices(model, graph)])
    squares = [writers @ (r @ r.T).flatten() for r in _read_matrices(model, graph)]
    return torch.stack(squares).clamp(min=0).sqrt() * graph.block.support.to(writers.device)


def _write_matrices(
    model: HookedTransformer, graph: ComponentGraph
) -> Iterator[Float[Tensor, "inner d_model"]]:
    yield model.W_E.float()
    if graph.split_embeddings:
        yield model.W_pos.float()
    for sublayer in graph.sublayers:
        block: Any = model.blocks[sublayer.layer]
        if sublayer.kind == "heads":
            yield from block.attn.W_O.float()
        else:
            yield block.mlp.W_out.float()


def _read_matrices(
    model: HookedTransformer, graph: ComponentGraph
) -> Iterator[Float[Tensor, "d_model inner"]]:
    """With the gain of the norm before them; concatenated positions are no part of the stream."""
    for sublayer in graph.sublayers:
        block: Any = model.blocks[sublayer.layer]
        if sublayer.kind == "mlp":
            mlp = block.mlp
            matrices = [mlp.W_gate, mlp.W_in] if model.cfg.gated_mlp else [mlp.W_in]
            yield _gain(block, "ln2", graph.d_model) * torch.cat(matrices, 1)[: graph.d_model]
            continue
        gain = _gain(block, "ln1", graph.d_model)
        for letter in LETTERS:
            weight = getattr(block.attn, f"W_{letter.upper()}")
            for head in weight.float()[:, : graph.d_model]:
                yield gain * head
    yield _gain(model, "ln_final", graph.d_model) * model.W_U.float()


def _gain(module: Any, norm: str, d_model: int) -> Float[Tensor, "d_model one"]:
    gain = getattr(getattr(module, norm, None), "w", None)
    return torch.ones(d_model, 1) if gain is None else gain.float()[:, None]
