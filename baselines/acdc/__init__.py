"""ACDC: test edges for removal one by one, from the output backwards (Conmy et al. 2304.14997)."""

from sparse_lens.baselines.acdc.method import ACDC
from sparse_lens.baselines.acdc.targets import EdgeBudget, LossTarget

__all__ = ["ACDC", "EdgeBudget", "LossTarget"]
