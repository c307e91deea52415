"""Running a circuit: the model inside `patched` is the circuit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.masks import Masks
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.objectives import Objective
from sparse_lens.patching.ablations.binding import Ablation, BoundAblation, bind
from sparse_lens.patching.activations import Values, activations
from sparse_lens.patching.fit import check_prompts
from sparse_lens.patching.hooks import Attachment
from sparse_lens.patching.norms import norm_scales
from sparse_lens.patching.suspension import active, suspended
from sparse_lens.task import Prompts


@contextmanager
def patched(
    model: HookedTransformer,
    circuit: Circuit | Masks,
    *,
    ablation: Ablation | BoundAblation,
    prompts: Prompts | None = None,
    freeze_norm_scales: bool = False,
) -> Iterator[HookedTransformer]:
    """Inside the context the model is the circuit; caches and hooks work as ever.

    Nested contexts do not add up: the innermost circuit is what runs, and the outer one is back
    when it ends. The model is left as it was found, also after an exception.

    One kind of hook does not act on all of a component graph's circuit: those on the norm before
    attention (`ln1`). Heads with a cut edge see a stream of their own, which is normed without
    hook points; hook `hook_q`, `hook_k` and `hook_v` instead, or the stream.

    Args:
        circuit: what to keep; or soft masks, through which gradients flow.
        ablation: what everything else carries.
        prompts: those on which the circuit will run, where the ablation or the norms need to know.
        freeze_norm_scales: norms divide by what they divide by in the full model on these prompts.

    Raises:
        ValueError: when the circuit is one of another model, or the ablation cannot be bound.
            Also when norm scales are to be frozen without prompts, or of a model without norms.
    """
    masks = circuit if isinstance(circuit, Masks) else Masks.of(circuit, device=model.cfg.device)
    scales = None
    if freeze_norm_scales:
        if prompts is None:
            raise ValueError(
                "freeze_norm_scales=True takes the scales from the full model on the prompts on "
                "which the circuit will run: pass prompts=."
            )
        scales = norm_scales(model, prompts.clean)
    attachment = bind(model, masks.graph, ablation).attachment(masks, prompts, scales)
    with active(model, attachment):
        yield model


def run_circuit(
    model: HookedTransformer,
    circuit: Circuit | Masks,
    tokens: Int[Tensor, "batch pos"] | Prompts,
    *,
    ablation: Ablation | BoundAblation,
) -> Float[Tensor, "batch pos vocab"]:
    """Logits of the circuit on tokens, or on the clean tokens of prompts.

    See :func:`patched` for the other arguments.

    Raises:
        ValueError: for anything but tokens and prompts, or tokens that the model does not have.
    """
    if isinstance(tokens, Prompts):
        check_prompts(model, tokens)
        prompts, inputs = tokens, tokens.clean
    elif isinstance(tokens, Tensor):
        prompts, inputs = None, tokens
    else:
        raise ValueError(
            f"a circuit runs on a tensor of tokens or on Prompts, got {type(tokens).__name__}; "
            "text has model.to_tokens(text), a task task.split('held_out')."
        )
    with patched(model, circuit, ablation=ablation, prompts=prompts):
        return model(inputs.to(model.cfg.device))


def circuit_activations(bound: BoundAblation, circuit: Circuit, prompts: Prompts) -> Values:
    """The values of all nodes by site while the circuit runs on clean prompts.

    On a channel graph `[n, pos, width]`; on a component graph, the outputs of all writers,
    `[width, n, pos, d_model]`. Nodes without an edge from the circuit carry what they read there.
    """
    patch = bound.attachment(Masks.of(circuit, device=bound.device), prompts)
    return activations(bound.model, bound.graph, prompts.clean, patch=patch)


def answer_logits(model: HookedTransformer, prompts: Prompts) -> Float[Tensor, "n vocab"]:
    """The logits at the answer positions of clean prompts, of the model as it stands.

    The others are not computed, where nothing comes after the unembedding: in models with large
    vocabularies they would take a third of a pass.
    """
    device = model.cfg.device
    rows, answers = torch.arange(len(prompts), device=device), prompts.answer_positions.to(device)

    def at_answers(
        unembed: nn.Module, args: tuple[Float[Tensor, "n pos d_model"]]
    ) -> tuple[Float[Tensor, "n one d_model"]]:
        return (args[0][rows, answers][:, None],)

    tokens = prompts.clean.to(device)
    if anatomy_of(model).has_bigram_table:  # which needs the tokens at all positions
        return model(tokens)[rows, answers]
    handle = model.unembed.register_forward_pre_hook(at_answers)
    try:
        return model(tokens)[:, 0]
    finally:
        handle.remove()


@torch.no_grad()
def full_logits(model: HookedTransformer, prompts: Prompts) -> Float[Tensor, "n vocab"]:
    """The same of the whole model, whatever circuit it is patched to be."""
    with suspended(model):
        return answer_logits(model, prompts)


def full_logits_for(
    objective: Objective, model: HookedTransformer, prompts: Prompts
) -> Float[Tensor, "n vocab"] | None:
    """The same for an objective that compares with them; None for one that does not."""
    return full_logits(model, prompts) if objective.needs_full_logits else None


@torch.no_grad()
def run_live(model: HookedTransformer, prompts: Prompts, attachment: Attachment) -> None:
    """A forward pass of the model on clean prompts, for what the attachment captures in blocks."""
    with suspended(model), attachment.attached():
        model(prompts.clean.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
