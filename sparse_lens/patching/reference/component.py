"""A circuit of a component graph: every reader sees a sum over the writers before it.

    input of reader r  =  b  +  sum over writers w before r of  m_rw * y_w + (1 - m_rw) * y~_w

y_w is what writer w puts out inside the circuit, y~_w its ablated value, m_rw the mask of the edge
between the two, and b the output biases of attention, which belong to no head and are always on.
What TransformerLens's modules do inside (norms, attention, MLPs, the unembedding) is theirs.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import EDGES, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.models.anatomy import Anatomy, anatomy_of

Stream = Float[Tensor, "batch pos d_model"]


def run_component_circuit(
    model: HookedTransformer,
    masks: Masks,
    tokens: Int[Tensor, "batch pos"],
    ablated: Mapping[str, Tensor],
) -> tuple[Float[Tensor, "batch pos vocab"], dict[str, Float[Tensor, "width batch pos d_model"]]]:
    """Logits, and the outputs of all writers by site."""
    graph = masks.graph
    assert isinstance(graph, ComponentGraph)
    blocks: Any = model.blocks
    kept = edge_weights(masks)
    ablated_outputs = [  # of all writers, each broadcasting to [batch, pos, d_model]
        value
        for name, site in graph.valued_sites.items()
        for value in ablated.get(name, torch.zeros(site.width, 1, 1, 1, device=tokens.device))
    ]
    outputs: list[Stream] = []  # of the writers so far
    biases: dict[int, Float[Tensor, " d_model"]] = {}  # by the column of the layer's first head

    def input_of(reader: int) -> Stream:
        n_before = graph.n_before(reader)
        # Whoever comes after a layer's heads comes after its bias.
        total: Any = sum(bias for first_head, bias in biases.items() if first_head < n_before)
        for writer in range(n_before):
            m = kept[reader, writer]
            total = total + m * outputs[writer] + (1 - m) * ablated_outputs[writer]
        return total

    stream, _, positions, _ = model.input_to_embed(tokens)
    if graph.split_embeddings:
        outputs += [model.embed(tokens), model.pos_embed(tokens).expand_as(stream)]
    else:
        outputs.append(stream)
    for sublayer in graph.sublayers:
        block, readers = blocks[sublayer.layer], range(graph.n_readers)[sublayer.readers]
        inputs = [input_of(reader) for reader in readers]
        if sublayer.kind == "heads":
            heads, biases[sublayer.writers.start] = attention(model, block, inputs, positions)
            outputs += heads
        else:
            outputs.append(mlp(model, block, inputs[0], positions))
    final = input_of(graph.logits_reader.start)
    logits = model(final, start_at_layer=graph.n_layers, tokens=tokens)
    by_writer = torch.stack(outputs)  # [writers, batch, pos, d_model]
    return logits, {name: by_writer[graph.node_slices[name]] for name in graph.valued_sites}


def edge_weights(masks: Masks) -> Float[Tensor, "readers writers"]:
    """m_rw: the mask of the edge times that of its writer (and of the logits, where these read).

    Everything that a pruned node reads is cut, too: where an AbsTopK or a norm spans all heads of a
    layer, a pruned head would else act on the others through that.
    """
    graph = masks.graph
    assert isinstance(graph, ComponentGraph)
    any_mask = next(iter((*masks.nodes.values(), *masks.edges.values())), torch.ones(()))
    sites = graph.sites.items()
    gates = [masks.nodes.get(name, any_mask.new_ones(site.width)) for name, site in sites]
    nodes = torch.cat(gates)  # the writers and, last, the logits
    weights = masks.edges.get(EDGES, any_mask.new_ones(graph.n_readers, graph.n_writers))
    weights = weights * nodes[:-1]
    weights = weights * (nodes.detach() > 0)[graph.block.dst_nodes.to(nodes.device), None]
    return torch.cat([weights[:-1], weights[-1:] * nodes[-1]])


def attention(
    model: HookedTransformer, block: Any, inputs: list[Stream], positions: Tensor | None
) -> tuple[list[Stream], Float[Tensor, " d_model"]]:
    """What each head of a layer writes, and what the layer writes beside that.

    Args:
        inputs: the streams that q of each head sees, then those of k, then those of v.
        positions: position embeddings that are concatenated to what the layer reads.
    """
    attn = block.attn
    by_letter = rearrange(inputs, "(qkv head) ... d_model -> qkv ... head d_model", qkv=3)
    anatomy = anatomy_of(model)
    if not anatomy.attn_reads_norm:
        positions = None if positions is None else rearrange(positions, "b pos d -> b pos 1 d")
        read = [block.read_attn(streams, positions) for streams in by_letter]
    elif not anatomy.attn_norms:
        read = list(by_letter)
    else:
        norm = getattr(block, anatomy.attn_norms[0])
        # One head after the other, since some norms check that there are three axes.
        read = [torch.stack([norm(s) for s in streams.unbind(2)], 2) for streams in by_letter]
    z, out = attend(model, attn, read)
    outputs = einsum(z, attn.W_O, "b pos head d_head, head d_head d_model -> head b pos d_model")
    return shares_of_heads(anatomy, block, list(outputs), out)


def attend(
    model: HookedTransformer, attn: Any, read: list[Float[Tensor, "batch pos head d_in"]]
) -> tuple[Float[Tensor, "batch pos head d_head"], Stream]:
    """What heads read out, and what the module makes of that, from what q, k and v read."""
    cfg, z = model.cfg, []
    # Under these flags each head has q, k and v inputs of its own.
    flags = ("use_split_qkv_input", "ungroup_grouped_query_attention")
    before = {flag: getattr(cfg, flag) for flag in flags}
    handle = attn.hook_z.register_forward_hook(lambda module, args, output: z.append(output))
    try:
        for flag in flags:
            setattr(cfg, flag, True)
        out = attn(*read)
    finally:
        handle.remove()
        for flag, value in before.items():
            setattr(cfg, flag, value)
    return z[0], out


def shares_of_heads(
    anatomy: Anatomy, block: Any, outputs: list[Stream], attn_out: Stream
) -> tuple[list[Stream], Float[Tensor, " d_model"]]:
    """What the heads' outputs add to the stream, and what attention adds beside.

    Where an AbsTopK or a norm stands between the two, a head's share is what its output comes to
    through the gate or the scale of all of them; the bias is shared evenly, and passes it, too.
    """
    bias = block.attn.b_O
    with_bias = [output + bias / len(outputs) for output in outputs]
    if anatomy.attn_is_gated:
        gate = attn_out != 0
        return [share * gate for share in with_bias], torch.zeros_like(bias)
    if anatomy.attn_post_norm is None:
        return outputs, bias
    norm = getattr(block, anatomy.attn_post_norm)
    centres = hasattr(norm, "b")  # a LayerNorm, which is linear but for its scale

    def centred(value: Stream) -> Stream:
        return value - value.mean(-1, keepdim=True) if centres else value

    variance = centred(attn_out).pow(2).mean(-1, keepdim=True)
    scale = norm.hook_scale((variance + norm.eps).sqrt())
    shares = [centred(share) / scale * norm.w for share in with_bias]
    return shares, norm.b if centres else torch.zeros_like(bias)


def mlp(model: HookedTransformer, block: Any, stream: Stream, positions: Tensor | None) -> Stream:
    """What an MLP writes, given the stream that it sees."""
    anatomy = anatomy_of(model)
    if not anatomy.mlp_reads_norm:
        return block.apply_mlp(block.read_mlp(stream, positions))
    for norm in anatomy.mlp_norms:
        stream = getattr(block, norm)(stream)
    return block.apply_mlp(stream)
