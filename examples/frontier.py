"""Pretraining loss against circuit size, over widths and sparsities.

python examples/frontier.py runs/frontier

Trains six small models on the text of the embedded ones, and compares the circuits of all. It takes
about two and a half hours on two cores, most of it for the sparse models; run again, it continues
where it stopped. The results and the figure in `docs/frontier` come from it.
"""

import sys
from pathlib import Path

import sparse_lens as sl
from sparse_lens.baselines import AttributionPatching
from sparse_lens.evals.budgets import EdgeBudgets
from sparse_lens.evals.frontier import frontier_points
from sparse_lens.evals.report import write_report
from sparse_lens.evals.summary import summarize
from sparse_lens.evals.tasks import SplitSizes
from sparse_lens.training.preset_changes import UNCHANGED, Changes
from sparse_lens.training.train_preset import RECORD, train_preset

SWEEP = {
    "dense-32": ("py-dense", Changes(channels=32)),
    "dense-40": ("py-dense", Changes(channels=40)),
    "dense-48": ("py-dense", UNCHANGED),
    "sparse-96-16": ("py-sparse", Changes(channels=96)),
    "sparse-128-16": ("py-sparse", Changes(channels=128)),
    "sparse-128-32": ("py-sparse", Changes(channels=128, weight_fraction=0.32)),
}
"""By name a preset and its changes; names give channels and the percentage of nonzero weights."""

EMBEDDED = ("py-sparse", "py-dense-topk")
"""Without `py-dense`, which is `dense-48` with its text in another order."""


def main(out: Path) -> None:
    for name, (preset, changes) in SWEEP.items():
        if not (out / name / RECORD).exists():
            train_preset(preset, out / name, changes=changes)
    results = sl.compare(
        [*EMBEDDED, *(out / name for name in SWEEP)],
        ["bracket_brace", "lambda_func", "for_while", "indent_for", "else_elif"],
        [
            sl.NodePruning(
                n_steps=300, batch_size=32, learning_rate=1e-2, k_coef=1e-3, removal_passes=0
            ),
            AttributionPatching(),
        ],
        out=out / "circuits",
        seeds=2,
        splits=SplitSizes(n_train=128, n_validation=64, n_held_out=128),
        budgets=EdgeBudgets(fractions=(1.0,), counts=(10, 100, 1000)),
        questions=(),
        random_draws=1,
        workers=2,
    )
    for point in frontier_points(summarize(results.records)):
        print(
            f"{point.setting.method:>20} {point.model.model:>14}: {point.loss:.3f} nats a token, "
            f"{point.edges:,.0f} edges a task"
        )
    print(write_report(results, out / "report.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/frontier"))
