"""The training runs of the embedded models, and a tiny one for trying the trainer."""

from dataclasses import dataclass

from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.training.config import TrainingConfig

EVERYWHERE = "attn_in,attn_q,attn_k,attn_v,attn_out,mlp_in,mlp_neuron,mlp_out"


@dataclass(frozen=True)
class Preset:
    """A training run by name."""

    description: str
    training: TrainingConfig


def _model(d_model: int, d_head: int, afrac: float | None, n_layer: int = 2) -> SparseGPTConfig:
    return SparseGPTConfig(
        block_size=128,
        vocab_size=1024,
        n_layer=n_layer,
        n_head=d_model // d_head,
        d_head=d_head,
        d_model=d_model,
        rms_norm=True,
        tied_unembed=False,
        afrac=afrac,
        afrac_loctypes=EVERYWHERE,
        tokenizer_name="stdlib_1k",
    )


def _training(
    model: SparseGPTConfig, *, sparse: tuple[float, float] | None = None, n_steps: int = 7000
) -> TrainingConfig:
    """The same text for all models, with one seed in one order; `sparse`: fractions of nonzeros."""
    weights, embeddings = sparse or (None, None)
    return TrainingConfig(
        model=model,
        n_steps=n_steps,
        weight_fraction=weights,
        embedding_fraction=embeddings,
        learning_rate=1e-2 if sparse else 5e-3,
        # With Adam's usual eps and clipping small models learn faster than with the paper's 0.1.
        betas=(0.9, 0.98),
        eps=1e-8,
        gradient="clip_norm",
    )


PRESETS = {
    "py-sparse": Preset(
        "weight-sparse GPT: 2 layers, 192 channels, 16% of weights and 30% of embeddings nonzero, "
        "AbsTopK of 1/4 everywhere",
        _training(_model(192, 16, 0.25), sparse=(0.16, 0.3)),
    ),
    "py-dense": Preset(
        "dense GPT of the same loss: 2 layers, 48 channels",
        _training(_model(48, 8, None)),
    ),
    "py-dense-topk": Preset(
        "dense GPT of the same loss with the same AbsTopK: 2 layers, 144 channels",
        _training(_model(144, 8, 0.25)),
    ),
    "tiny": Preset(
        "a minute's run to try the trainer",
        _training(_model(32, 8, 0.25), sparse=(0.1, 0.2), n_steps=200),
    ),
}
