"""Changes of a preset's size, for sweeps over widths and sparsities."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparse_lens.training.config import TrainingConfig


@dataclass(frozen=True)
class Changes:
    """How a training run differs from its preset; None leaves a value as it is."""

    n_steps: int | None = None

    channels: int | None = None
    """`d_model`. Heads keep their size, so their number changes; an MLP stays four times as
    wide."""

    weight_fraction: float | None = None
    """Fraction of nonzero entries of each projection matrix, of a sparse preset."""

    embedding_fraction: float | None = None
    """The same for embedding, position embedding and unembedding."""

    layers: int | None = None

    def of(self, cfg: TrainingConfig) -> TrainingConfig:
        """The changed configuration.

        Raises:
            ValueError: when the channels do not make whole heads, when a dense preset is given a
                fraction, or for a value out of range.
        """
        model = cfg.model
        if self.channels is not None:
            n_head, rest = divmod(self.channels, model.d_head)
            if rest or n_head < 1:
                raise ValueError(
                    f"channels must be a multiple of the head size {model.d_head}, got "
                    f"{self.channels}."
                )
            d_mlp = model.d_mlp * self.channels // model.d_model
            model = replace(model, d_model=self.channels, n_head=n_head, d_mlp=d_mlp)
        if self.layers is not None:
            model = replace(model, n_layer=self.layers)
        changed = {
            "n_steps": self.n_steps,
            "weight_fraction": self.weight_fraction,
            "embedding_fraction": self.embedding_fraction,
        }
        changed = {name: value for name, value in changed.items() if value is not None}
        if cfg.weight_fraction is None and changed.keys() - {"n_steps"}:
            raise ValueError(
                "a dense preset has no fraction of nonzero weights to change: train a sparse one."
            )
        return replace(cfg, model=model, **changed)

    @property
    def flags(self) -> tuple[str, ...]:
        """The options of `sparse-lens train` that make these changes."""
        options = {
            "--steps": self.n_steps,
            "--channels": self.channels,
            "--layers": self.layers,
            "--weights": self.weight_fraction,
            "--embeddings": self.embedding_fraction,
        }
        return tuple(
            part
            for flag, value in options.items()
            if value is not None
            for part in (flag, str(value))
        )


UNCHANGED = Changes()
