"""How far a circuit is from its target, on train and validation prompts together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.calibration import Calibration
from sparse_lens.conditions import Trial
from sparse_lens.patching import BoundAblation, CircuitRuns, Kept, circuit_runs
from sparse_lens.search import Calibrate
from sparse_lens.target import BoundTarget, Target, mean_of_worst, upper_bound
from sparse_lens.task import Task


@dataclass(frozen=True)
class Loss:
    """The loss on some prompts; of several bounds of a target, the one that is furthest from it."""

    mean: float

    bound: float
    """The mean plus a margin for what a mean over so many prompts leaves uncertain."""

    @classmethod
    def of(cls, losses: Float[Tensor, "bounds n"], margin: float) -> Loss:
        """Of the losses of single prompts, with a margin in standard errors of the mean."""
        return cls(mean_of_worst(losses), upper_bound(losses, margin))

    def is_within(self, limit: float, before: Loss) -> bool:
        """Whether mean and bound are at most a limit, or at most what they were before."""
        return self.mean <= max(limit, before.mean) and self.bound <= max(limit, before.bound)


@dataclass(frozen=True)
class Judged:
    """The losses of a circuit."""

    together: Loss
    """On train and validation prompts."""

    validation: Loss
    calibration: Calibration | None

    under: tuple[Loss, ...] = ()
    """In each trial of the target's conditions; none where these were not judged."""


@dataclass(frozen=True, eq=False)
class _TrialRuns:
    """Runs of circuits in one trial of a condition, on the prompts of one split."""

    trial: Trial
    on: BoundTarget
    runs: CircuitRuns

    def losses(self, kept: Kept) -> Float[Tensor, "bounds n"]:
        return self.on.scaled(self.runs.logits(self._with_live(kept)))

    def rebase(self, kept: Kept) -> None:
        self.runs.rebase(self._with_live(kept))

    def _with_live(self, kept: Kept) -> Kept:
        if self.trial.live is None and not self.trial.own_edges_only:
            return kept
        return Kept.of(self.trial.circuit(kept.circuit()))


class Judge:
    """Runs circuits on a task's train and validation prompts.

    Args:
        calibrate: fits a calibration of each circuit's logits on the train prompts first.
    """

    def __init__(
        self, bound: BoundAblation, task: Task, *, target: Target, calibrate: Calibrate | None
    ) -> None:
        self._target, self._calibrate = target, calibrate
        self._splits = [target.bind(bound, task.split(name)) for name in ("train", "validation")]
        self._runs = [circuit_runs(on.bound, on.prompts) for on in self._splits]
        self._trials: list[_TrialRuns] = []

    @property
    def limit(self) -> float:
        """What losses must not exceed."""
        return self._target.scale

    @property
    def uncounted_passes(self) -> int:
        """Passes through parts of the model, which a cost meter does not see."""
        runs = [*self._runs, *(trial.runs for trial in self._trials)]
        return sum(each.uncounted_passes for each in runs)

    def judge(self, kept: Kept) -> Judged:
        """The losses of a circuit under the ablation itself."""
        return self._judged(kept, self._runs[1].logits(kept))

    def judge_under(self, kept: Kept) -> Judged:
        """The losses of a circuit, also in the trials of the target's conditions."""
        under = tuple(self._loss(trial.losses(kept)) for trial in self._trials)
        return replace(self.judge(kept), under=under)

    def judge_within(self, kept: Kept, before: Judged) -> Judged | None:
        """The losses of a circuit, or None for one that is neither within the limit nor no worse.

        It has to be so on the validation prompts, on all prompts together, and in each trial; what
        is dearer is not run where something cheaper decides.

        Args:
            before: all losses of the circuit that it comes of, from `judge_under`.
        """
        validation = self._runs[1].logits(kept)
        if self._calibrate is None:
            on_validation = self._loss(self._splits[1].scaled(validation))
            if not on_validation.is_within(self.limit, before.validation):
                return None
        judged = self._judged(kept, validation)
        if not (
            judged.validation.is_within(self.limit, before.validation)
            and judged.together.is_within(self.limit, before.together)
        ):
            return None
        under = []
        for loss, loss_before in zip(self._losses_under(kept), before.under, strict=True):
            if not loss.is_within(self.limit, loss_before):
                return None
            under.append(loss)
        return replace(judged, under=tuple(under))

    def rebase(self, kept: Kept) -> None:
        """Let what differs from this circuit be all that the next ones compute."""
        for runs in self._runs:
            runs.rebase(kept)
        for trial in self._trials:
            trial.rebase(kept)

    def add_trials(self, kept: Kept) -> bool:
        """Draw the trials of this circuit, beside those that there are.

        Returns:
            Whether the circuit stands them: an adversary finds another subset for each circuit.
        """
        if not self._target.under:
            return True
        circuit = kept.circuit()
        added = [
            _TrialRuns(
                trial,
                on,
                circuit_runs(trial.bound, on.prompts, freeze_norm_scales=trial.freeze_norm_scales),
            )
            for on in self._splits
            for trial in on.trials(circuit)[1:]
        ]
        self._trials += added
        return all(self._loss(trial.losses(kept)).bound <= self.limit for trial in added)

    def _judged(self, kept: Kept, validation: Float[Tensor, "n vocab"]) -> Judged:
        """The losses of a circuit with these logits on the validation prompts."""
        train, calibration = self._runs[0].logits(kept), None
        if self._calibrate is not None:
            calibration = self._calibrate(train, self._splits[0].prompts)
        on_train = self._splits[0].scaled(train, calibration)
        on_validation = self._splits[1].scaled(validation, calibration)
        return Judged(
            together=self._loss(torch.cat([on_train, on_validation], 1)),
            validation=self._loss(on_validation),
            calibration=calibration,
        )

    def _losses_under(self, kept: Kept) -> Iterator[Loss]:
        return (self._loss(trial.losses(kept)) for trial in self._trials)

    def _loss(self, losses: Float[Tensor, "bounds n"]) -> Loss:
        return Loss.of(losses, self._target.margin)
