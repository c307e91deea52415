"""What the report's tables of numbers show of each circuit, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sparse_lens.evals.records import MeasurementKind
from sparse_lens.evals.report.cells import Cells, Value


@dataclass(frozen=True)
class Column:
    """A column of numbers."""

    heading: str
    title: str
    kind: MeasurementKind
    value: Value
    form: str = ".3f"
    of_all: Callable[[Sequence[int | float]], float] = fmean
    """One number out of those of all seeds and draws."""


@dataclass(frozen=True)
class Group:
    """Columns under one heading."""

    heading: str
    columns: tuple[Column, ...]

    def measured(self, cells: Cells) -> Group:
        """Without the columns for which no record has a number."""
        kept = (c for c in self.columns if any(one.values(c.kind, c.value) for one in cells.cells))
        return Group(self.heading, tuple(kept))


CIRCUITS = (
    Group("circuit", (
        Column("edges", "edges that the circuit keeps", "chosen", lambda m: m.n_edges, ",.0f"),
        Column("paths", "of these, on a path from input to output", "chosen",
               lambda m: m.connected_edges, ",.0f"),
        Column("nodes", "nodes that the circuit keeps", "chosen", lambda m: m.n_nodes, ",.0f"),
        Column("weights", "nonzero weights inside its heads and MLPs", "chosen",
               lambda m: m.weights_inside, ",.0f"),
    )),
    Group("the circuit on held-out prompts", (
        Column("loss", "two-way loss, nats", "chosen", lambda m: m.task_loss),
        Column("KL", "KL(full || circuit), nats", "chosen", lambda m: m.kl),
        Column("accuracy", "of answer against distractor", "chosen", lambda m: m.accuracy, ".1%"),
        Column("match", "the same most likely token as the full model", "chosen",
               lambda m: m.exact_match, ".1%"),
    )),
)  # fmt: skip

CONTROLS = (
    Group("circuit", (Column("loss", "two-way loss, nats", "chosen", lambda m: m.task_loss),)),
    Group("controls: two-way loss", (
        Column("full", "two-way loss of the full model", "full", lambda m: m.task_loss),
        Column("random", "two-way loss of random circuits of the same size", "random",
               lambda m: m.task_loss),
        Column("empty", "two-way loss with everything ablated", "empty", lambda m: m.task_loss),
        Column("ablated", "two-way loss with the circuit ablated and the rest kept", "chosen",
               lambda m: m.necessity_task_loss),
    )),
    Group("does it hold: two-way loss", (
        Column("resampled", "two-way loss with absent values from other, randomly drawn prompts",
               "resample", lambda m: m.task_loss),
        Column("frozen", "two-way loss with the scales of norms as in the full model",
               "frozen_norms", lambda m: m.task_loss),
        Column("subsets", "two-way loss with random parts of the rest ablated, mean over parts",
               "subset", lambda m: m.task_loss),
        Column("worst", "the same, of the worst part", "subset", lambda m: m.task_loss,
               of_all=max),
    )),
    Group("is it all, and no more", (
        Column("spare", "share of nodes whose removal alone does not hurt", "chosen",
               lambda m: m.dispensable_share, ".0%"),
        Column("missing", "difference of circuit and model when parts of the circuit are removed "
               "from both, in logits, mean over parts", "chosen", lambda m: m.incompleteness),
        Column("worst", "the same, of the worst part", "chosen",
               lambda m: m.worst_incompleteness, of_all=max),
    )),
)  # fmt: skip

LEGEND = {
    "resampled": (
        "What is absent carries, in place of its ablated value, its value on another prompt of the "
        "split, drawn at random: a circuit that holds only with the values it was found with "
        "loses here."
    ),
    "frozen": (
        "Norms divide by what they divide by in the full model: a circuit that works by rescaling "
        "what is left loses here."
    ),
    "subsets, worst": (
        "Random parts of what the circuit leaves out are ablated, each alone, and all else is "
        "kept: where the circuit is all that matters, the loss stays that of the full model, on "
        "average and for the worst part."
    ),
    "spare": (
        "Of the circuit's nodes (some of them, drawn at random, in a large one), the share whose "
        "removal alone raises the two-way loss by less than {threshold} nats: 0% in a minimal "
        "circuit."
    ),
    "missing, worst": (
        "Random parts of the circuit are removed from it and from the model: how far their logit "
        "differences are then apart, on average and for the worst part. 0 in a complete circuit; "
        "where the model has other nodes that stand in for those removed, it is large."
    ),
}
"""What a column means that does not explain itself, by the headings it goes with."""
