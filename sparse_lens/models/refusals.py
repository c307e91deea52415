"""What TransformerLens offers that cannot be right on a weight-sparse GPT, and why."""

from collections.abc import Callable
from typing import Any, NoReturn

from transformer_lens import ActivationCache

_PROCESSING_REASON = (
    "it rewrites weights, which is not neutral behind an AbsTopK and undoes weight sparsity"
)
_REASONS = {
    "from_pretrained": "sparse GPTs are loaded with sparse_lens.load_sparse_gpt",
    "from_pretrained_no_processing": "sparse GPTs are loaded with sparse_lens.load_sparse_gpt",
    "generate_stream": "the stock method loses tokens and positions; use generate",
}


def refuse_processing(name: str) -> Callable[..., NoReturn]:
    """A method that raises NotImplementedError with the reason."""
    reason = _REASONS.get(name, _PROCESSING_REASON)

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"{name} is not available on a sparse GPT: {reason}.")

    refuse.__name__ = name
    refuse.__doc__ = f"Not available: {reason}."
    return refuse


class SparseActivationCache(ActivationCache):
    """An ActivationCache that refuses decompositions whose parts would not add up."""

    def decompose_resid(self, *args: Any, **kwargs: Any) -> Any:
        self._require_sum("decompose_resid")
        return super().decompose_resid(*args, **kwargs)

    def compute_head_results(self) -> None:
        self._require_sum("compute_head_results", "attn_out")
        super().compute_head_results()

    def stack_head_results(self, *args: Any, **kwargs: Any) -> Any:
        self._require_sum("stack_head_results", "attn_out")
        return super().stack_head_results(*args, **kwargs)

    def get_neuron_results(self, *args: Any, **kwargs: Any) -> Any:
        self._require_sum("get_neuron_results", "mlp_out")
        return super().get_neuron_results(*args, **kwargs)

    def stack_neuron_results(self, *args: Any, **kwargs: Any) -> Any:
        self._require_sum("stack_neuron_results", "mlp_out")
        return super().stack_neuron_results(*args, **kwargs)

    def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> Any:
        self._require_sum("get_full_resid_decomposition", "attn_out", "mlp_out")
        return super().get_full_resid_decomposition(*args, **kwargs)

    def logit_attrs(self, *args: Any, **kwargs: Any) -> Any:
        if self.model.sparse_cfg.enable_bigram_table:
            raise NotImplementedError(
                "logit_attrs is not available on this model: its bigram table adds to the logits "
                "beside the residual stream, so attributions to components do not add up."
            )
        return super().logit_attrs(*args, **kwargs)

    def _require_sum(self, name: str, *places: str) -> None:
        cfg = self.model.sparse_cfg
        if not cfg.stream_is_a_sum:
            raise NotImplementedError(
                f"{name} is not available on this model: an activation on the residual stream "
                "stands between what is written and what is read."
            )
        gated = [place for place in places if cfg.has_abs_topk(place)]
        if gated:
            raise NotImplementedError(
                f"{name} is not available on this model: the AbsTopK at {', '.join(gated)} stands "
                "between the parts and the residual stream."
            )
