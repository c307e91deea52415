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
class Judged:
    """Two-way task losses of a circuit."""

    together: float
    """On train and validation prompts, the mean."""

    cautious: float
    """The same plus the margin for what a mean over so many prompts is not sure of."""

    validation: float
    """On the validation prompts alone."""

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
        train, validation = (runs.logits(kept) for runs in self._runs)
        calibration = None if self._calibrate is None else self._calibrate(train, self._train)
        loss = TaskLoss() if calibration is None else calibration.loss
        on_validation = loss(validation, self._validation)
        losses: Float[Tensor, " n"] = torch.cat([loss(train, self._train), on_validation])
        return Judged(
            together=float(losses.mean()),
            cautious=upper_bound(losses, self._margin),
            validation=float(on_validation.mean()),
            calibration=calibration,
        )

    def if_within(self, kept: Kept, limit: float, before: Judged) -> Judged | None:
        """The losses of a circuit that is at most at a limit, or no worse than one before it.

        On all prompts together, with the margin, and on the validation prompts alone; the train
        prompts are not run where these already say no.
        """
        on_validation = max(limit, before.validation)
        if self._calibrate is None:
            logits = self._runs[1].logits(kept)
            if float(TaskLoss()(logits, self._validation).mean()) > on_validation:
                return None
        judged = self.judge(kept)
        together = max(limit, before.cautious)
        within = judged.cautious <= together and judged.validation <= on_validation
        return judged if within else None

    def rebase(self, kept: Kept) -> None:
        """Let what differs from this circuit be all that the next ones compute."""
        for runs in self._runs:
            runs.rebase(kept)
