"""The loss of a circuit on train and validation prompts together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.calibration import Calibration
from sparse_lens.objectives import TaskLoss
from sparse_lens.patching import BoundAblation, Kept, circuit_runs
from sparse_lens.search import Calibrate, upper_bound
from sparse_lens.task import Task


@dataclass(frozen=True)
class Loss:
    """The two-way task loss on some prompts."""

    mean: float

    bound: float
    """The mean plus a margin for what a mean over so many prompts leaves uncertain."""

    @classmethod
    def of(cls, losses: Float[Tensor, " n"], margin: float) -> Loss:
        """Of the losses of single prompts, with a margin in standard errors of the mean."""
        return cls(float(losses.mean()), upper_bound(losses, margin))

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


class Judge:
    """Runs circuits on a task's train and validation prompts.

    Args:
        margin: how many standard errors of the mean a loss must stay below a limit.
        calibrate: fits a calibration of each circuit's logits on the train prompts first.
    """

    def __init__(
        self, bound: BoundAblation, task: Task, *, margin: float, calibrate: Calibrate | None
    ) -> None:
        self._train = task.train.to(bound.device)
        self._validation = task.split("validation").to(bound.device)
        self._runs = [circuit_runs(bound, prompts) for prompts in (self._train, self._validation)]
        self._margin, self._calibrate = margin, calibrate

    @property
    def uncounted_passes(self) -> int:
        """Passes through parts of the model, which a cost meter does not see."""
        return sum(runs.uncounted_passes for runs in self._runs)

    def judge(self, kept: Kept) -> Judged:
        """The losses of a circuit."""
        return self._judged(kept, self._runs[1].logits(kept))

    def judge_within(self, kept: Kept, limit: float, before: Judged) -> Judged | None:
        """The losses of a circuit, or None for one that is neither within a limit nor no worse.

        It has to be so on the validation prompts and on all prompts together; the train prompts
        are not run where the validation prompts decide.
        """
        validation = self._runs[1].logits(kept)
        if self._calibrate is None:
            losses = TaskLoss()(validation, self._validation)
            if not Loss.of(losses, self._margin).is_within(limit, before.validation):
                return None
        judged = self._judged(kept, validation)
        is_within = judged.validation.is_within(limit, before.validation)
        return judged if is_within and judged.together.is_within(limit, before.together) else None

    def rebase(self, kept: Kept) -> None:
        """Let what differs from this circuit be all that the next ones compute."""
        for runs in self._runs:
            runs.rebase(kept)

    def _judged(self, kept: Kept, validation: Float[Tensor, "n vocab"]) -> Judged:
        """The losses of a circuit with these logits on the validation prompts."""
        train = self._runs[0].logits(kept)
        calibration = None if self._calibrate is None else self._calibrate(train, self._train)
        loss = TaskLoss() if calibration is None else calibration.loss
        on_train, on_validation = loss(train, self._train), loss(validation, self._validation)
        return Judged(
            together=Loss.of(torch.cat([on_train, on_validation]), self._margin),
            validation=Loss.of(on_validation, self._margin),
            calibration=calibration,
        )
