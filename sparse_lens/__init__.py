"""Find circuits in language models with TransformerLens, and compare the methods that find them.

Public names are imported on first use, so that `import sparse_lens as sl` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparse_lens._version import __version__ as __version__

if TYPE_CHECKING:
    from sparse_lens.ablation import Ablation as Ablation
    from sparse_lens.ablation import InterchangeAblation as InterchangeAblation
    from sparse_lens.ablation import MeanAblation as MeanAblation
    from sparse_lens.ablation import ResampleAblation as ResampleAblation
    from sparse_lens.ablation import ZeroAblation as ZeroAblation
    from sparse_lens.circuit import Circuit as Circuit
    from sparse_lens.conditions import Adversary as Adversary
    from sparse_lens.conditions import FrozenNormScales as FrozenNormScales
    from sparse_lens.conditions import OtherValues as OtherValues
    from sparse_lens.conditions import OwnEdges as OwnEdges
    from sparse_lens.conditions import PartlyLive as PartlyLive
    from sparse_lens.discovery import Discovery as Discovery
    from sparse_lens.evals.compare import Comparison as Comparison
    from sparse_lens.evals.compare import compare as compare
    from sparse_lens.evals.harness.nothing_to_find import NothingToFind as NothingToFind
    from sparse_lens.graphs.channel import ChannelGraph as ChannelGraph
    from sparse_lens.graphs.component import ComponentGraph as ComponentGraph
    from sparse_lens.masks import Masks as Masks
    from sparse_lens.method import Method as Method
    from sparse_lens.models.checkpoint import load_sparse_gpt as load_sparse_gpt
    from sparse_lens.models.checkpoint import save_sparse_gpt as save_sparse_gpt
    from sparse_lens.models.config import SparseGPTConfig as SparseGPTConfig
    from sparse_lens.models.random_weights import random_weights as random_weights
    from sparse_lens.models.sparse_gpt import HookedSparseGPT as HookedSparseGPT
    from sparse_lens.node_pruning import NodePruning as NodePruning
    from sparse_lens.objectives import KLDivergence as KLDivergence
    from sparse_lens.objectives import NegatedLogitDifference as NegatedLogitDifference
    from sparse_lens.objectives import (
        NegatedProbabilityDifference as NegatedProbabilityDifference,
    )
    from sparse_lens.objectives import Objective as Objective
    from sparse_lens.objectives import TaskLoss as TaskLoss
    from sparse_lens.patching import bind as bind
    from sparse_lens.patching import patched as patched
    from sparse_lens.patching import run_circuit as run_circuit
    from sparse_lens.scores import Scores as Scores
    from sparse_lens.target import Target as Target
    from sparse_lens.task import Prompts as Prompts
    from sparse_lens.task import Task as Task

_PUBLIC = {
    "sparse_lens.ablation": (
        *("Ablation", "InterchangeAblation", "MeanAblation", "ResampleAblation", "ZeroAblation"),
    ),
    "sparse_lens.circuit": ("Circuit",),
    "sparse_lens.conditions": (
        "Adversary",
        "FrozenNormScales",
        "OtherValues",
        "OwnEdges",
        "PartlyLive",
    ),
    "sparse_lens.discovery": ("Discovery",),
    "sparse_lens.evals.compare": ("Comparison", "compare"),
    "sparse_lens.evals.harness.nothing_to_find": ("NothingToFind",),
    "sparse_lens.graphs.channel": ("ChannelGraph",),
    "sparse_lens.graphs.component": ("ComponentGraph",),
    "sparse_lens.masks": ("Masks",),
    "sparse_lens.method": ("Method",),
    "sparse_lens.models.checkpoint": ("load_sparse_gpt", "save_sparse_gpt"),
    "sparse_lens.models.config": ("SparseGPTConfig",),
    "sparse_lens.models.random_weights": ("random_weights",),
    "sparse_lens.models.sparse_gpt": ("HookedSparseGPT",),
    "sparse_lens.node_pruning": ("NodePruning",),
    "sparse_lens.objectives": (
        *("KLDivergence", "NegatedLogitDifference", "NegatedProbabilityDifference"),
        *("Objective", "TaskLoss"),
    ),
    "sparse_lens.patching": ("bind", "patched", "run_circuit"),
    "sparse_lens.scores": ("Scores",),
    "sparse_lens.target": ("Target",),
    "sparse_lens.task": ("Prompts", "Task"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULE_OF]
