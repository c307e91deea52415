"""The hyperparameters of weight-sparse pretraining."""

from dataclasses import dataclass

from sparse_lens.models.config import SparseGPTConfig


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of weight-sparse pretraining (Gao et al. 2025, 2511.13653, section 2).

    With `weight_fraction=None` the same trainer trains a dense model.

    Raises:
        ValueError: for a value out of range.
    """

    model: SparseGPTConfig
    """Architecture; activation sparsity belongs to it (`afrac`)."""

    n_steps: int
    batch_size: int = 16
    """Sequences a step."""

    context: int = 128
    """Tokens a sequence."""

    weight_fraction: float | None = None
    """Fraction of nonzero entries that each projection matrix keeps; None trains a dense model."""

    embedding_fraction: float | None = None
    """The same for embedding, position embedding and unembedding; None leaves them dense."""

    bias_fraction: float | None = None
    """The same for biases. The paper sparsifies them, the released script leaves them dense."""

    min_nonzeros: int = 4
    """Nonzero entries kept for every neuron and attention channel, in each of its matrices."""

    anneal_fraction: float = 0.5
    """Share of the steps over which the fraction falls linearly from 1 to its target."""

    learning_rate: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 0.1
    weight_decay: float = 0.1
    """On matrices; norms and biases are not decayed."""

    warmup_fraction: float = 0.01
    sharkfin: bool = True
    """Scale the learning rate by sqrt(target L0 / current L0) while weights are annealed."""

    gradient: str = "rescale"
    """`rescale` divides all gradients by their RMS + 1e-5, `clip_rms` only where the RMS exceeds
    1, `clip_norm` clips the norm to 1, `none` leaves them. With eps 0.1 a mere clip hardly trains:
    gradients start at RMS 3e-3."""

    grammar_share: float = 0.8
    """Share of training tokens that come from our own grammar."""

    n_reference_tokens: int = 32_768
    """Training tokens shipped with the model, over which mean ablation takes its means."""

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("weight_fraction", "embedding_fraction", "bias_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must lie in (0, 1] or be None, got {value}.")
        if self.context > self.model.block_size:
            raise ValueError(
                f"context {self.context} exceeds the model's block_size {self.model.block_size}."
            )
        if self.gradient not in ("rescale", "clip_rms", "clip_norm", "none"):
            raise ValueError(f"unknown gradient treatment {self.gradient!r}.")
        if self.model.tied_unembed:
            raise ValueError(
                "training keeps embedding and unembedding apart: set tied_unembed=False."
            )
