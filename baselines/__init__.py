"""Rival circuit-finding methods, one file each."""

from sparse_lens.baselines.acdc import ACDC
from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.baselines.magnitude import MagnitudeScores
from sparse_lens.baselines.random_scores import RandomScores

__all__ = ["ACDC", "AttributionPatching", "EdgePruning", "MagnitudeScores", "RandomScores"]
