"""A control method that keeps the largest weights, whatever the task."""

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
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import BoundAblation
from sparse_lens.ranking_method import Ranking, RankingMethod
from sparse_lens.scores import Scores
from sparse_lens.task import Task


@dataclass(frozen=True)
class MagnitudeScores(RankingMethod):
    """Scores by the size of weights alone; no prompt is used.

    On a channel graph an edge's score is the absolute value of its weight, and a node's score is
    the root of the sum of squares of its edges' weights (for `final_resid`, of the unembedding's
    weights). On a component graph an edge's score is the Frobenius norm |W_write W_read| of its
    writer's output matrix times its reader's input matrix (the composition of Elhage et al. 2021,
    not normalised). The gain of a norm before a reader is part of W_read; the gain of a norm after
    a writer is left out.
    """

    objective: Objective = TaskLoss()
    """Not used; the target is a task loss for every method."""

    edges: bool = False
    """Score the edges of a channel graph instead of its nodes."""

    @property
    def is_deterministic(self) -> bool:
        """Always: scores depend on the weights alone."""
        return True

    def rank(self, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter) -> Ranking:
        """Score by the size of weights; nothing is run."""
        return Ranking(magnitude_scores(bound.model, bound.graph, edges=self.edges))


@torch.no_grad()
def magnitude_scores(model: HookedTransformer, graph: Graph, *, edges: bool = False) -> Scores:
    """See :class:`MagnitudeScores`.

    Raises:
        ValueError: for a component graph of a mixture of experts, which has no single input and
            output matrix, and for a graph that is neither a component nor a channel graph.
    """
    if isinstance(graph, ComponentGraph):
        return Scores(graph, edges={EDGES: _compositions(model, graph)})
    if not isinstance(graph, ChannelGraph):
        raise ValueError(f"magnitudes are defined on component and channel graphs, got {graph}.")
    sizes = {block: weight.abs().float() for block, weight in graph.edge_weights(model).items()}
    return Scores(graph, edges=sizes) if edges else Scores(graph, nodes=_norms(model, graph, sizes))


def _norms(
    model: HookedTransformer, graph: ChannelGraph, sizes: dict[str, Float[Tensor, "dst src"]]
) -> dict[str, Float[Tensor, " width"]]:
    """By site: for each node the L2 norm of the weights into it and out of it."""
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
        raise ValueError(
            "a mixture of experts has no single input and output matrix, so magnitudes of its "
            "edges are not defined; use another method."
        )
    # |W R|_F^2 = tr(R' W'W R) = <W'W, RR'>. Both factors are [d_model, d_model], while W R is
    # [d_vocab, ...] for the embedding.
    write_grams = torch.stack([(w.T @ w).flatten() for w in _write_matrices(model, graph)])
    squares = torch.stack(
        [write_grams @ (r @ r.T).flatten() for r in _read_matrices(model, graph)]
    )  # [readers, writers]
    norms = squares.clamp(min=0).sqrt()  # rounding can make a square slightly negative
    return norms * graph.block.support.to(norms.device)


def _write_matrices(
    model: HookedTransformer, graph: ComponentGraph
) -> Iterator[Float[Tensor, "inner d_model"]]:
    """The matrix that each writer maps to the stream with, in float32."""
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
    """The matrix that each reader reads the stream with, in float32.

    The gain of the norm before the reader is part of it. Concatenated position embeddings are not:
    they are no part of the stream.
    """
    anatomy = anatomy_of(model)
    for sublayer in graph.sublayers:
        block: Any = model.blocks[sublayer.layer]
        if sublayer.kind == "mlp":
            mlp = block.mlp
            matrices = [mlp.W_gate, mlp.W_in] if model.cfg.gated_mlp else [mlp.W_in]
            weight = torch.cat(matrices, 1)[: graph.d_model]
            yield _gain(block, anatomy.mlp_norms) * weight.float()
            continue
        gain = _gain(block, anatomy.attn_norms)
        for letter in LETTERS:
            weights = getattr(block.attn, f"W_{letter.upper()}")  # [head, d_in, d_head]
            for weight in weights[:, : graph.d_model]:
                yield gain * weight.float()
    yield _gain(model, ("ln_final",)) * model.W_U.float()


def _gain(module: Any, norms: tuple[str, ...]) -> Float[Tensor, "d_model one"] | float:
    """The gain of the norm of the stream, the first of these; 1 if there is none or it has none."""
    gain = getattr(getattr(module, norms[0], None), "w", None) if norms else None
    return 1.0 if gain is None else gain.float()[:, None]
