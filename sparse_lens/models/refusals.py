"""Refusals of TransformerLens's methods that would be wrong on a weight-sparse GPT.

A method here gives the right number or raises NotImplementedError with the reason; stock methods
that are right are inherited as they are.
"""

from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.models.config import SparseGPTConfig

_PROCESSING = (
    "it rewrites weights, which is not neutral behind an AbsTopK and undoes weight sparsity"
)
_LOADING = "sparse GPTs are loaded with sparse_lens.load_sparse_gpt"


def refusal(name: str, reason: str) -> NotImplementedError:
    """The error for a method that is not available."""
    return NotImplementedError(f"{name} is not available on this sparse GPT: {reason}.")


def require_sum(cfg: SparseGPTConfig, name: str, *locations: str) -> None:
    """Refuse the method `name` unless the parts that it returns add up to the residual stream.

    Raises:
        NotImplementedError: when an AbsTopK stands at one of `locations`, between the parts and the
            stream, or the stream is not the sum of what is written to it.
    """
    if not cfg.stream_is_a_sum:
        raise refusal(
            name,
            "a residual activation or an AbsTopK acts on the stream after each sublayer, so it is "
            "not the sum of what was written to it",
        )
    require_linear(cfg, name, *locations)


def require_linear(cfg: SparseGPTConfig, name: str, *locations: str) -> None:
    """Refuse `name` when an AbsTopK stands at one of `locations`.

    Raises:
        NotImplementedError: naming the locations.
    """
    gated = [location for location in locations if cfg.has_abs_topk(location)]
    if gated:
        raise refusal(
            name, f"the AbsTopK at {', '.join(gated)} stands between the parts and their sum"
        )


class RefusingHookedTransformer(HookedTransformer):
    """A HookedTransformer without the methods that are wrong on a weight-sparse GPT."""

    sparse_cfg: SparseGPTConfig

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        """Not available: use `load_sparse_gpt`."""
        raise refusal("from_pretrained", _LOADING)

    @classmethod
    def from_pretrained_no_processing(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available: use `load_sparse_gpt`."""
        raise refusal("from_pretrained_no_processing", _LOADING)

    def process_weights_(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available: not neutral behind an AbsTopK."""
        raise refusal("process_weights_", _PROCESSING)

    def load_and_process_state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available; `load_state_dict` is."""
        raise refusal("load_and_process_state_dict", _PROCESSING + "; use load_state_dict")

    def fold_layer_norm(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available: not neutral behind an AbsTopK."""
        raise refusal("fold_layer_norm", _PROCESSING)

    def center_writing_weights(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available: not neutral behind an AbsTopK."""
        raise refusal("center_writing_weights", _PROCESSING)

    def center_unembed(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available: undoes weight sparsity."""
        raise refusal("center_unembed", _PROCESSING)

    def fold_value_biases(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available: patterns do not add up to 1 with a sink, nor are values what they were."""
        raise refusal("fold_value_biases", _PROCESSING)

    def refactor_factored_attn_matrices(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not available: not neutral behind an AbsTopK."""
        raise refusal("refactor_factored_attn_matrices", _PROCESSING)

    def load_sample_training_dataset(self, **kwargs: Any) -> NoReturn:
        """Not available; `reference_tokens` is what stock models have this for."""
        raise refusal("load_sample_training_dataset", "its data come as model.reference_tokens")

    @property
    def W_E_pos(self) -> Float[Tensor, "rows d_model"]:
        """Embedding and position embedding, one above the other, as a basis of the input space.

        Raises:
            NotImplementedError: when positions are concatenated: the stream never carries them.
        """
        self._require_positions_in_stream("W_E_pos")
        return torch.cat([self.W_E, self.W_pos], dim=0)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """The output biases that the stream carries at the input of a layer.

        Raises:
            NotImplementedError: when an AbsTopK decides anew at each position what of them passes.
        """
        locations = ("attn_out", "mlp_out") if include_mlp_biases else ("attn_out",)
        require_sum(self.sparse_cfg, "accumulated_bias", *locations)
        if not 0 <= layer <= self.cfg.n_layers - mlp_input:
            raise ValueError(
                f"layer must lie in [0, {self.cfg.n_layers - mlp_input}] when mlp_input is "
                f"{mlp_input}, got {layer}."
            )
        bias = self.b_O[: layer + mlp_input].sum(0)
        return bias + self.b_out[:layer].sum(0) if include_mlp_biases else bias

    def all_composition_scores(self, mode: str) -> Float[Tensor, "layer head layer head"]:
        """Composition scores of all pairs of heads, from their weight matrices alone.

        Raises:
            NotImplementedError: when an AbsTopK stands inside a head or between two, or heads read
                concatenated positions beside the stream.
        """
        locations = ("attn_in", "attn_q", "attn_k", "attn_v", "attn_out")
        require_sum(self.sparse_cfg, "all_composition_scores", *locations)
        self._require_positions_in_stream("all_composition_scores")
        return super().all_composition_scores(mode)

    def _require_positions_in_stream(self, name: str) -> None:
        if self.sparse_cfg.d_pos_emb is not None:
            raise refusal(
                name,
                "position embeddings are concatenated to what a sublayer reads, not added to the "
                "stream",
            )
