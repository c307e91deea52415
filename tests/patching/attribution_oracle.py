"""Effects of a component graph's edges the slow way: TransformerLens's split inputs and autograd.

For interchange ablation and models whose heads write to the stream directly.
"""

from typing import Any

import torch
from torch import Tensor

from sparse_lens.graphs import ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.task import Prompts
from tests.patching import tiny

FLAGS = ("use_split_qkv_input", "use_hook_mlp_in", "ungroup_grouped_query_attention")


class Surprisal(Objective):
    """Minus the log-probability of the answer, in the precision of the logits."""

    def __call__(self, logits: Any, prompts: Prompts, full_logits: Any = None) -> Tensor:
        return -logits.log_softmax(-1)[torch.arange(len(prompts)), prompts.answers]


def slow_edge_effects(
    model: Any,
    prompts: Prompts,
    objective: Objective,
    *,
    share: float = 1.0,
    moved: slice = slice(0, 0),
    relp: bool = False,
) -> Tensor:
    """[readers, writers], with gradients where the `moved` writers have a share of their value."""
    graph = ComponentGraph.from_model(model)
    with torch.no_grad():
        clean, corrupted = (
            torch.cat(list(tiny.activations(model, graph, tokens).values()))
            for tokens in (prompts.clean, prompts.corrupted)
        )
    change = corrupted - clean  # [writers, batch, pos, d_model]
    reads: dict[str, Tensor] = {}
    hooks = [(name, read(reads)) for name in reader_hooks(graph)]
    if moved.stop:
        step = (1 - share) * change[moved].sum(0)
        hooks.insert(0, (written_at(graph, moved), lambda value, hook: value + step))
    if relp:
        hooks += relp_hooks(model)
    before = {flag: getattr(model.cfg, flag) for flag in FLAGS}
    try:
        for flag in FLAGS:
            setattr(model.cfg, flag, True)
        with model.hooks(fwd_hooks=hooks):
            logits = model(prompts.clean)[torch.arange(len(prompts)), prompts.answer_positions]
    finally:
        for flag, value in before.items():
            setattr(model.cfg, flag, value)
    loss = objective(logits, prompts).sum()
    gradients = torch.autograd.grad(loss, [reads[name] for name in reader_hooks(graph)])
    rows = []
    for gradient in gradients:
        rows += gradient.unbind(2) if gradient.ndim == 4 else [gradient]
    effects = torch.einsum("rbpd,wbpd->rw", torch.stack(rows), change)
    return effects * graph.edge_support["edges"]


def reader_hooks(graph: ComponentGraph) -> list[str]:
    """Hook points of all readers, in the order of the graph's rows."""
    names = []
    for layer in range(graph.n_layers):
        names += [f"blocks.{layer}.hook_{letter}_input" for letter in "qkv"]
        names += [] if graph.attn_only else [f"blocks.{layer}.hook_mlp_in"]
    return [*names, f"blocks.{graph.n_layers - 1}.hook_resid_post"]


def written_at(graph: ComponentGraph, moved: slice) -> str:
    """Where the outputs of writers of one site join the stream."""
    for sublayer in graph.sublayers:
        if sublayer.writers == moved:
            point = {"heads": "hook_attn_out", "mlp": "hook_mlp_out"}[sublayer.kind]
            return f"blocks.{sublayer.layer}.{point}"
    return "blocks.0.hook_resid_pre"


def read(reads: dict[str, Tensor]) -> Any:
    """A hook that notes a value."""

    def note(value: Tensor, hook: Any) -> Tensor:
        # A tensor of its own: what goes in may be an input of other readers as well.
        reads[hook.name] = value.clone()
        return reads[hook.name]

    return note


def relp_hooks(model: Any) -> list[tuple[str, Any]]:
    """Constant scales, constant ratios of activation functions, halved gradients of gates."""
    hooks: list[tuple[str, Any]] = [
        (name, lambda scale, hook: scale.detach()) for name in scales(model)
    ]
    for layer, block in enumerate(model.blocks):
        found: dict[str, Tensor] = {}

        def note(value: Tensor, hook: Any, found: dict[str, Tensor] = found) -> None:
            found[hook.name.rsplit(".", 1)[-1]] = value

        def post(
            value: Tensor, hook: Any, mlp: Any = block.mlp, found: dict[str, Tensor] = found
        ) -> Tensor:
            pre = found["hook_pre"]
            active = pre * (mlp.act_fn(pre) / pre).detach()
            if not model.cfg.gated_mlp:
                return active
            gated = active * found["hook_pre_linear"]
            return (gated + gated.detach()) / 2 + mlp.b_in

        names = ["hook_pre", "hook_pre_linear"] if model.cfg.gated_mlp else ["hook_pre"]
        hooks += [(f"blocks.{layer}.mlp.{name}", note) for name in names]
        hooks.append((f"blocks.{layer}.mlp.hook_post", post))
    return hooks


def scales(model: Any) -> list[str]:
    """Hook points of all norms' scales."""
    return [name for name in model.hook_dict if name.endswith("hook_scale")]
