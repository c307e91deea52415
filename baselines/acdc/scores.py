"""A ranking of edges out of the runs of ACDC at several thresholds."""

from collections.abc import Sequence

import numpy as np
import torch

from sparse_lens.baselines.acdc.pruning_run import Edge, Run
from sparse_lens.circuit import Circuit
from sparse_lens.scores import Scores


def scores_of_runs(start: Circuit, runs: Sequence[Run]) -> Scores:
    """Edges by the largest threshold at which they were kept.

    Of those kept up to the same threshold the one whose removal changed the objective more in that
    run comes first; edges that no run kept are ordered by the change in the run of the smallest
    threshold, with those never tested last. The score is the place in this order, from 1 for the
    last; edges that are equal in both share a place, and edges outside the starting circuit have 0.
    """
    graph, runs = start.graph, sorted(runs, key=lambda run: run.rule.threshold)
    edges: list[Edge] = []
    level_parts: list[np.ndarray] = []
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
        _size(runs[max(level - 1, 0)], edge)
        for edge, level in zip(edges, levels.tolist(), strict=True)
    ]
    places = _places(levels, np.array(changes))
    values = {block: torch.zeros(shape) for block, shape in graph.block_shapes.items()}
    for (block, row, column), place in zip(edges, places.tolist(), strict=True):
        values[block][row, column] = place
    return Scores(graph, edges=values, absolute=False)


def _size(run: Run, edge: Edge) -> float:
    change = run.changes.get(edge, -np.inf)
    return abs(change) if run.rule.absolute and np.isfinite(change) else change


def _places(levels: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Places in ascending order of both, from 1; equal ones share one."""
    order = np.lexsort((changes, levels))
    level, change = levels[order], changes[order]
    new = (level[1:] != level[:-1]) | (change[1:] != change[:-1])
    places = np.empty(len(order), dtype=np.int64)
    places[order] = 1 + np.concatenate([[0], np.cumsum(new)]) if len(order) else 0
    return places
