"""Whether a circuit found for one task, or one style of its prompts, does another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparse_lens.circuit import Circuit
from sparse_lens.evals.metrics import compare_logits, measure, model_logits
from sparse_lens.patching import BATCH_SIZE, BoundAblation
from sparse_lens.task import Prompts

if TYPE_CHECKING:
    import pandas as pd

FULL_MODEL = "full model"
"""The name under which the model itself stands beside the circuits."""


def transfer_table(
    bound: BoundAblation,
    circuits: Mapping[str, Circuit],
    prompts: Mapping[str, Prompts],
    *,
    batch_size: int = BATCH_SIZE,
) -> pd.DataFrame:
    """Measure every circuit, and the full model, on all prompts.

    A row for each, with the columns `circuit`, `prompts`, `n_edges`, and the mean of every metric
    of `measure`. `table.pivot(index="circuit", columns="prompts", values="task_loss")` has on its
    diagonal what a circuit does on its own task, where both go by the same names.

    Args:
        circuits: of the model, by the tasks or prompt styles that they were found on.
        prompts: held-out ones, by task or style.

    Raises:
        ValueError: for nothing to measure, or a circuit that is called as the full model is.
    """
    import pandas as pd

    if not (circuits and prompts):
        raise ValueError(
            f"a table needs circuits and prompts, got {len(circuits)} and {len(prompts)}."
        )
    if FULL_MODEL in circuits:
        raise ValueError(f"{FULL_MODEL!r} is the row of the model itself; rename that circuit.")
    rows = []
    for style, batch in prompts.items():
        batch = batch.to(bound.device)
        logits = model_logits(bound.model, batch, batch_size=batch_size)
        measured = {FULL_MODEL: (bound.graph.n_edges, compare_logits(logits, logits, batch))}
        for name, circuit in circuits.items():
            metrics = measure(bound, circuit, batch, full_logits=logits, batch_size=batch_size)
            measured[name] = circuit.n_edges, metrics
        rows += [
            {"circuit": name, "prompts": style, "n_edges": n_edges, **metrics.means()}
            for name, (n_edges, metrics) in measured.items()
        ]
    return pd.DataFrame(rows)
