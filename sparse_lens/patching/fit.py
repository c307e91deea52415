"""Whether a graph is the graph of a model, and whether prompts are in its tokens."""

import torch
from transformer_lens import HookedTransformer

from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.task import Prompts

_LAYOUT = ("n_layers", "n_heads", "d_head", "d_model", "attn_only", "parallel")


def check_fits(model: HookedTransformer, graph: Graph) -> None:
    """Refuse a graph that was built from a model of another shape, or with other nonzero weights.

    Raises:
        ValueError: saying what differs.
    """
    if isinstance(graph, ComponentGraph):
        own: Graph = ComponentGraph.from_model(model, split_embeddings=graph.split_embeddings)
    elif isinstance(graph, ChannelGraph):
        own = ChannelGraph.from_model(model, final_resid=graph.has_final_resid)
    else:
        raise ValueError(f"no forward pass for graphs of kind {type(graph).__name__}.")
    reason = _difference(graph, own)
    if reason is not None:
        raise ValueError(
            f"{graph} is the graph of another model: {reason}. Build the graph (and the circuit) "
            f"from this model, {type(graph).__name__}.from_model(model)."
        )


def check_prompts(model: HookedTransformer, prompts: Prompts) -> None:
    """Refuse prompts that are too long for a model, or have tokens that it lacks.

    Raises:
        ValueError: saying which of the two.
    """
    cfg = model.cfg
    length = prompts.clean.shape[1]
    if length > cfg.n_ctx:
        raise ValueError(f"the prompts have {length} tokens, the model's context {cfg.n_ctx}.")
    sizes = {"clean": cfg.d_vocab, "corrupted": cfg.d_vocab}
    sizes |= {"answers": cfg.d_vocab_out, "distractors": cfg.d_vocab_out}
    for name, size in sizes.items():
        tokens = getattr(prompts, name)
        if tokens is not None and int(tokens.max()) >= size:
            raise ValueError(
                f"{name} has the token {int(tokens.max())}, and the model's vocabulary ends at "
                f"{size - 1}; were the prompts made with another model's tokenizer?"
            )


def _difference(graph: Graph, own: Graph) -> str | None:
    """What of a graph is not as in the model's own."""
    of_both = {name: (getattr(graph, name), getattr(own, name)) for name in _LAYOUT}
    differ = [f"{name} {a} against {b}" for name, (a, b) in of_both.items() if a != b]
    if differ:
        return f"graph and model differ in {', '.join(differ)}"
    for name in sorted({*graph.sites, *own.sites}, key=str):
        if graph.sites.get(name) != own.sites.get(name):
            return f"site {name!r} is {graph.sites.get(name)} against {own.sites.get(name)}"
    for block, support in own.edge_support.items():
        if not torch.equal(graph.edge_support[block], support):
            return f"other weights of block {block!r} are zero"
    return None
