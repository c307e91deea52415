"""The activation cache of a weight-sparse GPT: decompositions that add up, or none."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from sparse_lens.models.refusals import refusal, require_linear, require_sum


class SparseActivationCache(ActivationCache):
    """An ActivationCache that refuses decompositions whose parts would not add up.

    Three that are wrong in stock code are right here: `decompose_resid` leaves out concatenated
    positions, which the stream never carries; `logit_attrs` multiplies by the gain of the final
    norm, which cannot be folded away; and a slice of the batch keeps refusing.
    """

    model: Any

    def __init__(
        self, cache_dict: dict[str, Tensor], model: Any, has_batch_dim: bool = True
    ) -> None:
        super().__init__(cache_dict, model, has_batch_dim=has_batch_dim)
        self.has_pos_embed = self.has_pos_embed and model.sparse_cfg.d_pos_emb is None

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "SparseActivationCache":
        """A cache of a part of the batch."""
        sliced = super().apply_slice_to_batch_dim(batch_slice)
        return SparseActivationCache(sliced.cache_dict, self.model, sliced.has_batch_dim)

    def decompose_resid(self, *args: Any, **kwargs: Any) -> Any:
        """What embeddings and layers wrote to the stream."""
        require_sum(self.model.sparse_cfg, "decompose_resid")
        return super().decompose_resid(*args, **kwargs)

    def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> Any:
        """What embeddings, heads, neurons and biases wrote to the stream."""
        locations = ("attn_out", "mlp_out")
        require_sum(self.model.sparse_cfg, "get_full_resid_decomposition", *locations)
        return super().get_full_resid_decomposition(*args, **kwargs)

    def compute_head_results(self) -> None:
        """Cache what each head adds to its layer's output."""
        require_linear(self.model.sparse_cfg, "compute_head_results", "attn_out")
        if "blocks.0.attn.hook_result" in self.cache_dict:
            return
        for layer, block in enumerate(self.model.blocks):
            z = self["z", layer]  # [(batch,) pos, head_index, d_head]
            result = torch.einsum("...he,hed->...hd", z, block.attn.W_O.to(z))
            self.cache_dict[f"blocks.{layer}.attn.hook_result"] = result

    def stack_head_results(self, *args: Any, **kwargs: Any) -> Any:
        """What each head wrote to the stream."""
        require_sum(self.model.sparse_cfg, "stack_head_results", "attn_out")
        return super().stack_head_results(*args, **kwargs)

    def get_neuron_results(self, *args: Any, **kwargs: Any) -> Any:
        """What each neuron of a layer adds to the layer's output."""
        require_linear(self.model.sparse_cfg, "get_neuron_results", "mlp_out")
        return super().get_neuron_results(*args, **kwargs)

    def stack_neuron_results(self, *args: Any, **kwargs: Any) -> Any:
        """What each neuron wrote to the stream."""
        require_sum(self.model.sparse_cfg, "stack_neuron_results", "mlp_out")
        return super().stack_neuron_results(*args, **kwargs)

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Any = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The stream at each layer; with `apply_ln` of the last layer, what the logit lens shows.

        Raises:
            NotImplementedError: with `apply_ln`, when a bigram table makes logits of more than
                the stream, or an AbsTopK acts on what the layer reads.
        """
        last = layer in (None, -1, self.model.cfg.n_layers)
        if apply_ln and last and self.model.sparse_cfg.enable_bigram_table:
            raise refusal(
                "accumulated_resid with apply_ln",
                "its bigram table adds to the logits beside the stream; take the streams without "
                "apply_ln, and add model.bigram_table[tokens] to their logits",
            )
        return super().accumulated_resid(
            layer, incl_mid, apply_ln, pos_slice, mlp_input, return_labels
        )

    def _get_cached_ln_scale(
        self, layer: int | None, mlp_input: bool, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The scale of a norm, which every stock method with `apply_ln` takes from here."""
        if layer is not None and layer < self.model.cfg.n_layers:
            location = "mlp_in" if mlp_input else "attn_in"
            require_linear(self.model.sparse_cfg, "apply_ln", location)
        return super()._get_cached_ln_scale(layer, mlp_input, *args, **kwargs)

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "part *rest d_model"],
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
    ) -> Float[Tensor, "part ..."]:
        """What each part of the final stream adds to the logits of tokens.

        Over all parts that is the logit, less the unembedding of the final norm's bias and the
        logits' own bias.

        Raises:
            NotImplementedError: when the model has a bigram table.
            ValueError: when `incorrect_tokens` has another shape than `tokens`.
        """
        if self.model.sparse_cfg.enable_bigram_table:
            raise refusal("logit_attrs", "its bigram table adds to the logits beside the stream")
        directions = self.model.tokens_to_residual_directions(tokens)
        if incorrect_tokens is not None:
            incorrect = self.model.tokens_to_residual_directions(incorrect_tokens)
            if incorrect.shape != directions.shape:
                raise ValueError(
                    f"tokens and incorrect_tokens must have one shape, got directions of shapes "
                    f"{tuple(directions.shape)} and {tuple(incorrect.shape)}."
                )
            directions = directions - incorrect
        scaled = self.apply_ln_to_stack(
            residual_stack,
            pos_slice=pos_slice,
            batch_slice=batch_slice,
            has_batch_dim=has_batch_dim,
        )
        return (scaled * self.model.ln_final.w * directions).sum(-1)
