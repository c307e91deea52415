"""Node pruning under many settings: a search of its hyperparameters for the smallest circuit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Literal

from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation
from sparse_lens.cost import Cost, metered
from sparse_lens.discovery import Discovery
from sparse_lens.graphs.base import Graph
from sparse_lens.identity import describe, json_hash, model_hash, task_hash
from sparse_lens.method import Method, check_task
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import BoundAblation, bind
from sparse_lens.target import Target
from sparse_lens.task import Task

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

Range = tuple[float, float]
"""Lowest and highest value, both positive; values between them are drawn by their logarithm."""

PAPER_SPACE: Mapping[str, Range] = MappingProxyType(
    {
        "k_coef": (1e-5, 3e-2),
        "learning_rate": (1e-3, 1e-1),
        "init_noise_scale": (1e-3, 1e-1),
        "init_noise_bias": (1e-2, 1.0),
        "weight_decay": (1e-4, 1e-2),
        "temperature": (0.1, 10.0),
    }
)
"""A decade or two around the centres of the paper, which does not publish its ranges."""


@dataclass(frozen=True)
class NodePruningSearch(Method):
    """The best of several runs of node pruning, their settings chosen one after another.

    Gao et al. 2025 (2511.13653) search the hyperparameters of each model and task anew, by a
    cost-aware Bayesian search; here it is the tree-structured Parzen estimator of optuna. The first
    run has the settings of `base`. Runs are compared on what they chose on the validation prompts;
    held-out prompts play no part.

    Raises:
        ValueError: for a range that is not one, or a field that node pruning does not have.
    """

    objective: Objective = TaskLoss()
    """The loss that every run works on, in place of that of `base`."""

    base: NodePruning = field(default_factory=NodePruning)
    """What every run has in common. Of several values of `k_coef` the middle one is the first run's
    where `space` names it, since each run then has its own."""

    space: Mapping[str, Range] = field(default_factory=lambda: dict(PAPER_SPACE))
    """By field of `base`, the range to search; what is not named stays as it is in `base`."""

    target: Target | None = None
    """What every run's circuit meets on the validation prompts; None for that of `base`."""

    goal: Literal["n_edges", "n_nodes", "loss"] = "n_edges"
    """What to make small: the size of the chosen circuit (that of the whole graph where the target
    is not met), or its validation loss."""

    n_trials: int = 16
    journal: str | None = None
    """A file to which finished runs are written; a search that was interrupted goes on from it,
    and ends as if it had not been."""

    def __post_init__(self) -> None:
        if self.n_trials < 1:
            raise ValueError(f"n_trials must be at least 1, got {self.n_trials}.")
        for name, (low, high) in self.space.items():
            value = getattr(self._base, name, None)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ValueError(f"space names {name!r}, which is no number of NodePruning.")
            if not 0 < low < high:
                raise ValueError(f"the range of {name!r} must be 0 < low < high, got {low, high}.")

    def discover(
        self,
        model: HookedTransformer,
        graph: Graph,
        task: Task,
        *,
        ablation: Ablation | BoundAblation,
        seed: int = 0,
    ) -> Discovery:
        """Run the trials that are missing; the best one's discovery, at the cost of all of them.

        Raises:
            ImportError: when optuna is not installed.
            ValueError: when the task has no validation split, or does not fit the model.
        """
        check_task(model, task)
        task.split("validation")
        with metered(model) as meter:
            bound = bind(model, graph, ablation)
            binding = meter.cost()
        discoveries: dict[int, Discovery] = {}
        with _quiet():
            study = self._study(bound, task, seed)
            while (number := len(_finished(study))) < self.n_trials:
                # A new sampler for each trial: its draws then depend on the earlier trials alone,
                # wherever the search was interrupted.
                study.sampler = _optuna().samplers.TPESampler(seed=seed * 1009 + number)
                trial = study.ask()
                discovery = self._settings(trial).discover(
                    model, graph, task, ablation=bound, seed=seed
                )
                trial.set_user_attr("cost", asdict(discovery.cost))
                study.tell(trial, self._value(discovery))
                discoveries[trial.number] = discovery
            trials = _finished(study)[: self.n_trials]
        best = min(trials, key=lambda trial: (trial.values[0], trial.number))
        if best.number not in discoveries:  # it ended before an interruption
            settings = replace(self._base, **best.params)
            discoveries[best.number] = settings.discover(
                model, graph, task, ablation=bound, seed=seed
            )
        return replace(
            discoveries[best.number],
            method=self,
            cost=_total([binding, *(Cost(**trial.user_attrs["cost"]) for trial in trials)]),
            history=tuple({"value": trial.values[0], **trial.params} for trial in trials),
        )

    def _settings(self, trial: Trial) -> NodePruning:
        """The base's own settings first, then what optuna suggests."""
        values = {}
        for name, (low, high) in self.space.items():
            if isinstance(getattr(self._base, name), int):
                values[name] = trial.suggest_int(name, round(low), round(high), log=True)
            else:
                values[name] = trial.suggest_float(name, low, high, log=True)
        return replace(self._base, **values)

    @property
    def _base(self) -> NodePruning:
        """What every run has in common."""
        base = self.base
        if "k_coef" in self.space and isinstance(base.k_coef, tuple):
            base = replace(base, k_coef=sorted(base.k_coef)[len(base.k_coef) // 2])
        target = base.target if self.target is None else self.target
        return replace(base, objective=self.objective, target=target)

    def _value(self, discovery: Discovery) -> float:
        chosen = discovery.chosen
        assert chosen is not None
        if self.goal == "loss":
            return chosen.loss
        whole = discovery.scores.graph
        measured = chosen.circuit if chosen.met_target else whole
        return float(measured.n_edges if self.goal == "n_edges" else measured.n_nodes)

    def _study(self, bound: BoundAblation, task: Task, seed: int) -> Study:
        """The search of this model, graph, task, ablation and seed, with what the journal holds."""
        optuna = _optuna()
        storage = None
        if self.journal is not None:
            backend = optuna.storages.journal.JournalFileBackend(self.journal)
            storage = optuna.storages.JournalStorage(backend)
        search_hash = json_hash(
            {
                "search": describe(replace(self, journal=None, n_trials=1)),
                "model": model_hash(bound.model),
                "graph": bound.graph.fingerprint,
                "ablation": _describe_bound(bound),
                "task": task_hash(task),
            }
        )
        study = optuna.create_study(
            storage=storage,
            study_name=f"{task.name}, seed {seed}, {search_hash}",
            load_if_exists=True,
        )
        waiting = optuna.trial.TrialState.WAITING
        if not any(t.state.is_finished() or t.state == waiting for t in study.trials):
            # Also when the first was interrupted: the journal keeps it as running for ever.
            study.enqueue_trial({name: getattr(self._base, name) for name in self.space})
        return study


def _describe_bound(bound: BoundAblation) -> list[Any]:
    """Its kind and its tensors; the study's name has the model and the graph already."""
    names = (f.name for f in fields(bound) if f.name not in ("model", "graph"))
    return [type(bound).__name__, *(describe(getattr(bound, name)) for name in names)]


def _finished(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.state.is_finished()]


def _optuna() -> ModuleType:
    try:
        return import_module("optuna")
    except ImportError as error:
        raise ImportError(
            'NodePruningSearch needs optuna: pip install "sparse-lens[search]"'
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without optuna's line for every study and trial."""
    logging = _optuna().logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _total(costs: Sequence[Cost]) -> Cost:
    peaks = [cost.peak_memory for cost in costs if cost.peak_memory is not None]
    return Cost(
        forward_passes=sum(cost.forward_passes for cost in costs),
        backward_passes=sum(cost.backward_passes for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        peak_memory=max(peaks, default=None),
    )
