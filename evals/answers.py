"""The answer to a question about a circuit: a value for each example, and their mean."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparse_lens.evals.intervals import Estimate, ends_of_interval, resampled_means


@dataclass(frozen=True, eq=False)
class Answer(Estimate):
    """Values whose mean is the answer, with an interval from resampling the examples."""

    values: Float[Tensor, " n"]
    """One for each example."""

    @classmethod
    def of(cls, values: Float[Tensor, " n"], *, seed: int = 0) -> Answer:
        """The mean of some values.

        Args:
            seed: of the bootstrap.
        """
        low, high = ends_of_interval(resampled_means(values, seed=seed))
        return cls(float(values.cpu().double().mean()), low, high, values)
