"""The frontier of capability and circuit size: models by pretraining loss and edges a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_lens.evals.intervals import geometric_mean
from sparse_lens.evals.summary import MeanSize, ModelSummary, Setting, Summary


@dataclass(frozen=True)
class FrontierPoint:
    """A model of known pretraining loss, and the size of its circuits by one method.

    Gao et al. 2025 (2511.13653), figure 3, draw such points for models of several widths and
    sparsities: smaller loss and smaller circuits are better, and one is paid for with the other.
    """

    setting: Setting
    model: ModelSummary
    loss: float
    """Pretraining loss in nats a token."""

    edges: float
    """Geometric mean over seeds, and over the tasks that all models can do."""

    by_seed: tuple[float, ...]
    """Geometric means over tasks."""

    n_unmet: int
    """Circuits that met no target, which count as the full graph."""

    def beats(self, other: FrontierPoint) -> bool:
        """Whether it is no worse in loss and in edges, and better in one of them."""
        no_worse = self.loss <= other.loss and self.edges <= other.edges
        return no_worse and (self.loss, self.edges) != (other.loss, other.edges)


def frontier_points(summary: Summary) -> tuple[FrontierPoint, ...]:
    """A point for each method and model, those of the smallest pretraining loss first.

    Models of unknown pretraining loss have none.
    """
    by_name = {model.model: model for model in summary.models}
    groups: dict[tuple[Setting, str], list[MeanSize]] = {}
    for mean in summary.means:
        groups.setdefault((mean.setting, mean.model), []).append(mean)
    points = []
    for (setting, name), means in groups.items():
        model = by_name[name]
        if model.pretraining_loss is None:
            continue
        by_seed = tuple(mean.edges for mean in means)
        points.append(
            FrontierPoint(
                setting=setting,
                model=model,
                loss=model.pretraining_loss,
                edges=geometric_mean(by_seed),
                by_seed=by_seed,
                n_unmet=sum(len(mean.unmet) for mean in means),
            )
        )
    return tuple(sorted(points, key=lambda point: (point.loss, point.edges, point.model.model)))


def undominated(points: Sequence[FrontierPoint]) -> tuple[FrontierPoint, ...]:
    """The points of one method that no other beats, in the order given.

    Raises:
        ValueError: for points of several methods, whose edges do not compare.
    """
    settings = list(dict.fromkeys(point.setting for point in points))
    if len(settings) > 1:
        methods = ", ".join(setting.method for setting in settings)
        raise ValueError(f"a frontier is of one setting, got {len(settings)} ({methods}).")
    return tuple(point for point in points if not any(other.beats(point) for other in points))
