"""Transfer: whether a circuit holds on prompts of other templates than those it was found on."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_lens.circuit import Circuit
from sparse_lens.evals.intervals import Estimate, ends_of_interval, resampled_means
from sparse_lens.evals.metrics import CircuitMetrics, MetricName, measure
from sparse_lens.evals.question import ROBUSTNESS, Answers, Column, Question, Subject
from sparse_lens.patching import BATCH_SIZE, BoundAblation
from sparse_lens.task import Task


@dataclass(frozen=True)
class Transfer(Question):
    """How well a circuit does on the train prompts, to set beside the held-out ones.

    See :func:`transfer`.
    """

    def ask(self, subject: Subject) -> Answers:
        """The metrics on the train prompts; those on held-out ones are the circuit's own."""
        return measure(subject.bound, subject.circuit, subject.task.train).means()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The task loss on the train prompts."""
        return (
            Column(
                answer="task_loss",
                heading="train",
                title="two-way loss on the train prompts",
                group=ROBUSTNESS,
                meaning=(
                    "On the train prompts, which the tasks of this package make of other "
                    "templates than the held-out ones: a circuit that holds for its own templates "
                    "alone has a much smaller loss there."
                ),
            ),
        )


@dataclass(frozen=True, eq=False)
class TransferResult:
    """A circuit on the prompts that it was found on, and on held-out ones."""

    train: CircuitMetrics
    held_out: CircuitMetrics

    def change(self, metric: MetricName, *, seed: int = 0) -> Estimate:
        """Mean on held-out prompts minus mean on train prompts; both are resampled.

        Args:
            seed: of the bootstrap.
        """
        train, held_out = getattr(self.train, metric), getattr(self.held_out, metric)
        changes = resampled_means(held_out, seed=2 * seed) - resampled_means(
            train, seed=2 * seed + 1
        )
        mean = held_out.cpu().double().mean() - train.cpu().double().mean()
        return Estimate(float(mean), *ends_of_interval(changes))


def transfer(
    bound: BoundAblation, circuit: Circuit, task: Task, *, batch_size: int = BATCH_SIZE
) -> TransferResult:
    """Measure a circuit on the train and the held-out split.

    The splits of this package's tasks have templates of their own, so the change between them is
    what other templates make of the circuit, and not only chance.

    Raises:
        ValueError: when the task has no held-out split.
    """
    return TransferResult(
        train=measure(bound, circuit, task.train, batch_size=batch_size),
        held_out=measure(bound, circuit, task.split("held_out"), batch_size=batch_size),
    )
