"""Checks that a graph is a model's graph, and that the model can run prompts."""

import torch
from transformer_lens import HookedTransformer

from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.task import Prompts

_LAYOUT = ("n_layers", "n_heads", "d_head", "d_model", "attn_only", "parallel")


def check_fits(model: HookedTransformer, graph: Graph) -> None:
    """Check that a graph is the model's: of its shape, and with its nonzero weights.

    Raises:
        ValueError: if it is not, naming what differs.
    """
    if isinstance(graph, ComponentGraph):
        expected: Graph = ComponentGraph.from_model(model, split_embeddings=graph.split_embeddings)
    elif isinstance(graph, ChannelGraph):
        expected = ChannelGraph.from_model(model, final_resid=graph.has_final_resid)
    else:
        raise ValueError(f"no forward pass for graphs of kind {type(graph).__name__}.")
    reason = _difference(graph, expected)
    if reason is not None:
        raise ValueError(
            f"{graph} is the graph of another model: {reason}. Build the graph (and the circuit) "
            f"from this model, {type(graph).__name__}.from_model(model)."
        )


def check_prompts(model: HookedTransformer, prompts: Prompts) -> None:
    """Check that prompts fit into a model's context, and their tokens into its vocabulary.

    Raises:
        ValueError: if they do not, naming which of the two.
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


def _difference(graph: Graph, expected: Graph) -> str | None:
    """How a graph differs from the model's; None if it does not."""
    layouts = {name: (getattr(graph, name), getattr(expected, name)) for name in _LAYOUT}
    differing = [f"{name} {a} against {b}" for name, (a, b) in layouts.items() if a != b]
    if differing:
        return f"graph and model differ in {', '.join(differing)}"
    for name in sorted({*graph.sites, *expected.sites}, key=str):
        site, expected_site = graph.sites.get(name), expected.sites.get(name)
        if site != expected_site:
            return f"site {name!r} is {site} against {expected_site}"
    for block, support in expected.edge_support.items():
        if not torch.equal(graph.edge_support[block], support):
            return f"other weights of block {block!r} are zero"
    return None
