"""The settings that all jobs of a comparison share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparse_lens.ablation import Ablation, MeanAblation
from sparse_lens.evals.budgets import EdgeBudgets
from sparse_lens.evals.labels import check_objects, labelled
from sparse_lens.evals.question import Question, registry
from sparse_lens.evals.questions import DEFAULT_QUESTIONS
from sparse_lens.target import PAPER, Target


@dataclass(frozen=True, kw_only=True, eq=False)
class JobSettings:
    """The fields of a `Comparison` that each of its jobs needs.

    Raises:
        ValueError: for a negative number of draws, or a target, an ablation or a question of the
            wrong type.
    """

    ablation: Ablation = field(default_factory=MeanAblation)
    """What absent nodes and edges carry; the mean over the model's reference tokens by default."""

    target: Target | None = PAPER
    """What the smallest circuit must meet on the validation prompts, in place of the methods' own
    `target`. None leaves each method its own."""

    budgets: EdgeBudgets = field(default_factory=EdgeBudgets)
    """Numbers of edges for the curve."""

    random_draws: int = 3
    """Random circuits of the chosen one's size, as a control."""

    questions: Sequence[Question] | Mapping[str, Question] = DEFAULT_QUESTIONS
    """Further questions about each circuit that met the target; `()` for none. Answers are recorded
    under the questions' registered names, or under the keys of a mapping."""

    def __post_init__(self) -> None:
        if not isinstance(self.ablation, Ablation):
            raise ValueError(
                f"ablation is an object such as ZeroAblation(), got {self.ablation!r}."
            )
        if not (self.target is None or isinstance(self.target, Target)):
            raise ValueError(f"target is Target(task_loss=...), or None, got {self.target!r}.")
        if not isinstance(self.budgets, EdgeBudgets):
            raise ValueError(f"budgets is EdgeBudgets(counts=...), got {self.budgets!r}.")
        if not isinstance(self.random_draws, int):
            raise ValueError(f"random_draws must be a whole number, got {self.random_draws!r}.")
        if self.random_draws < 0:
            raise ValueError(f"random_draws must be 0 or more, got {self.random_draws}.")
        check_objects("questions", self.questions, Question, "Minimality()")
        _ = self.named_questions

    @property
    def named_questions(self) -> dict[str, Question]:
        """The questions by the names under which answers are recorded.

        Raises:
            ValueError: when two have the same name.
        """
        return labelled("questions", self.questions, registry)
