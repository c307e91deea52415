"""What the name of a site says: a drawing is read back from a file, where names stand for a graph.

A site is named after its layer and its kind, such as `blocks.0.attn_in` or `blocks.0.heads`; sites
outside the layers are their own kind, such as `final_resid` or `logits`.
"""

from __future__ import annotations

from sparse_lens.plotting.network import Network

STREAM_READS = ("attn_in", "mlp_in", "final_resid")
STREAM_WRITES = ("attn_out", "mlp_out")
STREAM_KINDS = (*STREAM_READS, *STREAM_WRITES)
"""Kinds of sites whose nodes are channels of the residual stream."""


def kind_of(site: str) -> str:
    """The site's name without its layer."""
    return site.rpartition(".")[2]


def sites_by_layer(network: Network) -> list[list[str]]:
    """The sites with kept nodes, layer by layer, in forward order."""
    layer_of = {node.site: node.layer for node in network.nodes}
    return [
        [site for site in network.sites if site in layer_of and layer_of[site] == layer]
        for layer in range(network.n_layers)
    ]
