"""A ranking of edges by runs of ACDC at several thresholds."""

from collections.abc import Sequence

import numpy as np
import torch

from sparse_lens.baselines.acdc.pruning_run import Edge, Run
from sparse_lens.circuit import Circuit
from sparse_lens.scores import Scores


def scores_of_runs(start: Circuit, runs: Sequence[Run]) -> Scores:
    """Edges by the largest threshold at which they were kept.

    Edges with the same such threshold rank by the change of the objective in that run. Edges that
    no run kept come below, ordered by the change in the run of the smallest threshold, with
    untested ones last. The score is the rank, counted from 1 for the last; edges that are equal in
    both share a rank, and edges outside the starting circuit have the score 0.
    """
    graph, runs = start.graph, sorted(runs, key=lambda run: run.rule.threshold)
    edges: list[Edge] = []
    level_parts: list[np.ndarray] = []  # 0: kept by no run; i: by the i-th smallest threshold
    for block in graph.blocks:
        rows, columns = start.edge_mask(block).nonzero(as_tuple=True)
        levels = np.zeros(len(rows), dtype=np.int64)
        for level, run in enumerate(runs, 1):
            levels[run.circuit.edge_mask(block)[rows, columns].numpy()] = level
        level_parts.append(levels)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        edges += [(block, row, column) for row, column in pairs]
    levels = np.concatenate(level_parts)
    changes = [
        _change(runs[max(level - 1, 0)], edge)
        for edge, level in zip(edges, levels.tolist(), strict=True)
    ]
    ranks = _ranks(levels, np.array(changes))
    values = {block: torch.zeros(shape) for block, shape in graph.block_shapes.items()}
    for (block, row, column), rank in zip(edges, ranks.tolist(), strict=True):
        values[block][row, column] = rank
    return Scores(graph, edges=values, absolute=False)


def _change(run: Run, edge: Edge) -> float:
    """What a run compared with its threshold for an edge; minus infinity if it was not tested."""
    change = run.changes.get(edge, -np.inf)
    return abs(change) if run.rule.absolute and np.isfinite(change) else change


def _ranks(levels: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Ranks from 1 in ascending order of levels, then of changes; equal edges share a rank."""
    order = np.lexsort((changes, levels))  # the last key is the primary one
    level, change = levels[order], changes[order]
    differs = (level[1:] != level[:-1]) | (change[1:] != change[:-1])  # from the edge before
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = 1 + np.concatenate([[0], np.cumsum(differs)]) if len(order) else 0
    return ranks
