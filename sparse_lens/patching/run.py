"""Running a circuit: inside the context `patched` the model computes what the circuit does."""

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

BATCH_SIZE = 256
"""Prompts in one pass, where nothing else is said."""


@contextmanager
def patched(
    model: HookedTransformer,
    circuit: Circuit | Masks,
    *,
    ablation: Ablation | BoundAblation,
    prompts: Prompts | None = None,
    freeze_norm_scales: bool = False,
) -> Iterator[HookedTransformer]:
    """Inside the context the model runs as the circuit; caches and other hooks work as before.

    Of nested contexts only the innermost circuit runs; the outer one is restored when the inner
    context ends. All hooks are removed and flags restored at the end, also after an exception.

    On a component graph, hooks on the norm before attention (`ln1`) do not act on all of the
    circuit: a head with a cut edge reads a residual stream of its own, which is normed without hook
    points. Hook `hook_q`, `hook_k` and `hook_v` instead, or the residual stream.

    Args:
        circuit: what to keep; or soft masks, with respect to which the output is differentiable.
        ablation: what all other nodes and edges carry.
        prompts: on which the circuit will run. Needed by ablations that depend on prompts, and to
            freeze norm scales.
        freeze_norm_scales: norms divide by what they divide by in the full model on these prompts.

    Raises:
        ValueError: when the circuit belongs to another model, the ablation cannot be bound, or norm
            scales are to be frozen without prompts or in a model without norms.
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
    """Logits of a circuit on tokens, or on the clean tokens of prompts.

    See :func:`patched` for the other arguments.

    Raises:
        ValueError: for anything but tokens and prompts, or prompts that the model cannot run.
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


@torch.no_grad()
def circuit_logits(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    freeze_norm_scales: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Float[Tensor, "n vocab"]:
    """Logits at the answer positions when the model is the circuit.

    Args:
        freeze_norm_scales: norms divide by what they divide by in the full model.
    """
    parts = []
    for batch, its_ablation in bound.batches(prompts, batch_size):
        with patched(
            bound.model,
            circuit,
            ablation=its_ablation,
            prompts=batch,
            freeze_norm_scales=freeze_norm_scales,
        ):
            parts.append(answer_logits(bound.model, batch))
    return torch.cat(parts)


def circuit_activations(bound: BoundAblation, circuit: Circuit, prompts: Prompts) -> Values:
    """The values of a circuit's nodes by site in a run of it on clean prompts.

    On a channel graph `[n, pos, width]`; on a component graph the outputs of writers,
    `[width, n, pos, d_model]`. Nodes outside the circuit have entries, too: on a channel graph
    their ablated values. On a component graph the values of writers that do not act on the output,
    whether kept or not, are not to be relied on: what only they read is not computed.
    """
    patch = bound.attachment(Masks.of(circuit, device=bound.device), prompts)
    return activations(bound.model, bound.graph, prompts.clean, patch=patch)


def answer_logits(model: HookedTransformer, prompts: Prompts) -> Float[Tensor, "n vocab"]:
    """The logits at the answer positions of clean prompts, with the patches that are active.

    Other positions are not unembedded, which in models with large vocabularies saves a third of the
    pass.
    """
    device = model.cfg.device
    rows, answers = torch.arange(len(prompts), device=device), prompts.answer_positions.to(device)

    def at_answers(
        unembed: nn.Module, args: tuple[Float[Tensor, "n pos d_model"]]
    ) -> tuple[Float[Tensor, "n one d_model"]]:
        return (args[0][rows, answers][:, None],)

    tokens = prompts.clean.to(device)
    if anatomy_of(model).has_bigram_table:  # it is looked up by the tokens at all positions
        return model(tokens)[rows, answers]
    handle = model.unembed.register_forward_pre_hook(at_answers)
    try:
        return model(tokens)[:, 0]
    finally:
        handle.remove()


@torch.no_grad()
def full_logits(model: HookedTransformer, prompts: Prompts) -> Float[Tensor, "n vocab"]:
    """The full model's logits at the answer positions, whichever circuit is active on it."""
    with suspended(model):
        return answer_logits(model, prompts)


def full_logits_for(
    objective: Objective, model: HookedTransformer, prompts: Prompts
) -> Float[Tensor, "n vocab"] | None:
    """The full model's logits if the objective compares with them, else None."""
    return full_logits(model, prompts) if objective.needs_full_logits else None


@torch.no_grad()
def run_live(model: HookedTransformer, prompts: Prompts, attachment: Attachment) -> None:
    """Run the full model's layers on clean prompts with an attachment, for what it captures."""
    with suspended(model), attachment.attached():
        model(prompts.clean.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
