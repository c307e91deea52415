"""The channel graph, compared with the weights and activations of models."""

import pytest
import torch
from transformer_lens import HookedTransformer

from sparse_lens.graphs import ChannelGraph, ComponentGraph
from tests.graphs.tiny import config, dense_model, sparse_model

TOKENS = torch.tensor([[1, 5, 3, 9], [2, 2, 7, 4]])


def test_published_count_of_nodes():
    cfg = config(12, 128, 1024, d_head=8, d_mlp=4096)
    assert ChannelGraph.count_nodes(cfg) == 136_192
    assert ChannelGraph.count_nodes(cfg, final_resid=False) == 136_192 - 1024
    assert ChannelGraph.count_nodes(cfg, d_pos=16) == 136_192 + 12 * 2 * 16


@pytest.mark.parametrize("final_resid", [True, False])
@pytest.mark.parametrize("d_pos_emb", [None, 2])
def test_sites_of_a_sparse_model(d_pos_emb, final_resid):
    graph = ChannelGraph.from_model(sparse_model(d_pos_emb=d_pos_emb), final_resid=final_resid)
    d_in = 4 + (d_pos_emb or 0)
    widths = {"attn_in": d_in, "q": 6, "k": 6, "v": 6, "attn_out": 4}
    widths |= {"mlp_in": d_in, "mlp_post": 6, "mlp_out": 4}
    expected = {f"blocks.{layer}.{name}": w for layer in range(2) for name, w in widths.items()}
    expected |= {"final_resid": 4} if final_resid else {}
    assert {name: site.width for name, site in graph.sites.items()} == expected
    assert list(graph.sites) == list(expected)
    assert graph.n_nodes == sum(expected.values())
    assert (graph.d_pos, graph.has_final_resid) == (d_pos_emb or 0, final_resid)


MODELS = {
    "sparse": lambda: sparse_model(afrac=0.5, afrac_loctypes="attn_in,attn_q,mlp_neuron"),
    "positions": lambda: sparse_model(d_pos_emb=2, sink=True),
    "LayerNorm": lambda: dense_model(),
    "folded": lambda: dense_model(normalization_type="LNPre"),
    "RMSNorm": lambda: dense_model(normalization_type="RMS"),
    "no norm": lambda: dense_model(normalization_type=None),
    "parallel": lambda: dense_model(
        parallel_attn_mlp=True, positional_embedding_type="rotary", rotary_dim=2
    ),
    "attention only": lambda: dense_model(attn_only=True),
}


@pytest.fixture(params=MODELS, ids=str)
def model(request) -> HookedTransformer:
    return MODELS[request.param]()


def activations(model: HookedTransformer) -> dict[str, torch.Tensor]:
    if model.cfg.normalization_type is None:
        model.set_use_attn_in(True)
        model.set_use_hook_mlp_in(True)
    return dict(model.run_with_cache(TOKENS)[1])


def test_sites_name_hook_points_of_their_width(model):
    cache = activations(model)
    for site in ChannelGraph.from_model(model).sites.values():
        for hook in filter(None, (site.hook_name, site.input_hook_name)):
            value = cache[hook]
            if hook.endswith("hook_attn_in"):
                value = value[:, :, 0]  # the same stream once for every head
            assert value.flatten(2).shape[-1] == site.width, hook


def test_weights_carry_differences_from_site_to_site(model):
    """In differences between positions biases cancel, and weights times differences remain.

    The attention pattern is between v and the output, so z is taken in place of v.
    """
    graph, cache = ChannelGraph.from_model(model), activations(model)
    for name, weight in graph.edge_weights(model).items():
        block = graph.blocks[name]
        hook = block.source.hook_name
        if block.through_attention:
            hook = hook.removesuffix("hook_v") + "hook_z"
        value = cache[hook]
        if hook.endswith("hook_attn_in"):
            value = value[:, :, 0]
        out = cache[block.destination.input_hook_name].flatten(2)  # type: ignore[index]
        value = value.flatten(2)
        difference = (value[:, 1:] - value[:, :1]) @ weight.T
        torch.testing.assert_close(difference, out[:, 1:] - out[:, :1], atol=1e-4, rtol=1e-4)


def test_edges_are_the_nonzero_weights(model):
    graph = ChannelGraph.from_model(model)
    expected = []
    for block, weight in graph.edge_weights(model).items():
        src, dst = block.split("->")
        for row in range(weight.shape[0]):
            for column in range(weight.shape[1]):
                if weight[row, column] != 0:
                    expected.append(f"{src}:{column}->{dst}:{row}")
    names = list(graph.edge_names())
    assert names == expected
    assert graph.n_edges == len(expected)
    for name in names[::7]:
        assert graph.edge_name(*graph.parse_edge(name)) == name
    nodes = list(graph.node_names())
    assert len(nodes) == graph.n_nodes
    assert [graph.node_name(*graph.parse_node(name)) for name in nodes] == nodes


def test_blocks_are_the_six_matrices_of_a_layer():
    graph = ChannelGraph.from_model(sparse_model())
    assert [block.replace("blocks.1.", "") for block in list(graph.edge_support)[6:]] == [
        "attn_in->q",
        "attn_in->k",
        "attn_in->v",
        "v->attn_out",
        "mlp_in->mlp_post",
        "mlp_post->mlp_out",
    ]


def test_heads_stand_one_after_the_other():
    model = sparse_model(density=0.0)
    with torch.no_grad():
        model.blocks[1].attn.W_V[1, 3, 2] = 1.0  # head 1, from channel 3, to its channel 2 of 3
        model.blocks[1].attn.W_O[1, 2, 0] = 1.0
    graph = ChannelGraph.from_model(model)
    assert list(graph.edge_names()) == [
        "blocks.1.attn_in:3->blocks.1.v:5",
        "blocks.1.v:5->blocks.1.attn_out:0",
    ]


def test_a_gain_of_zero_cuts_the_edges_of_its_channel():
    model = dense_model()
    model.get_parameter("blocks.0.ln2.w").data[1] = 0.0
    graph = ChannelGraph.from_model(model)
    support = graph.edge_support["blocks.0.mlp_in->blocks.0.mlp_post"]
    assert support.any(0).tolist() == [True, False, True, True]


def test_all_weights_of_a_dense_model_take_no_memory():
    graph = ChannelGraph.from_model(dense_model())
    matrices = 4 * 4 * 4 + 2 * 4 * 16
    assert graph.n_edges == 2 * matrices
    for support in graph.edge_support.values():
        assert support.untyped_storage().nbytes() == 1


def test_building_leaves_no_gradient_and_edge_weights_have_one():
    model = dense_model()
    graph = ChannelGraph.from_model(model)
    weights = graph.edge_weights(model)
    assert all(weight.requires_grad for weight in weights.values())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_edge_weights_of_another_model_are_refused():
    graph = ChannelGraph.from_model(dense_model())
    with pytest.raises(ValueError, match="another model"):
        graph.edge_weights(dense_model(d_mlp=5))
    with pytest.raises(ValueError, match="another model"):
        graph.edge_weights(dense_model(attn_only=True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gated_mlp": True}, "gated_mlp"),
        ({"n_key_value_heads": 1}, "grouped queries"),
        ({"num_experts": 2, "experts_per_token": 1}, "mixtures of experts"),
        ({"use_normalization_before_and_after": True, "normalization_type": "RMS"}, "post-norms"),
        ({"original_architecture": "Olmo2ForCausalLM"}, "post-norms.*Olmo2"),
        ({"positional_embedding_type": "shortformer"}, "shortformer"),
    ],
)
def test_refused_by_name(changes, reason):
    model = HookedTransformer(config(**changes))
    with pytest.raises(ValueError, match=reason):
        ChannelGraph.from_model(model)


def test_only_decoders_are_taken():
    with pytest.raises(ValueError, match="got Linear"):
        ChannelGraph.from_model(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("blocks.0.mlp_pst:1", "blocks.0.mlp_post"),
        ("blocks.0.mlp_post:6", "numbered 0 to 5"),
        ("blocks.0.mlp_post:-1", "numbered 0 to 5"),
        ("blocks.0.mlp_post:01", "numbered 0 to 5"),
        ("blocks.0.mlp_post", "blocks.0.mlp_post"),
        ("", "no site"),
    ],
)
def test_unknown_nodes_are_refused_with_a_hint(name, hint):
    graph = ChannelGraph.from_model(sparse_model())
    with pytest.raises(ValueError, match="has no node") as error:
        graph.parse_node(name)
    assert hint in str(error.value)


def test_unknown_edges_are_refused_with_a_hint():
    graph = ChannelGraph.from_model(sparse_model())
    with pytest.raises(ValueError, match=r"not edges.*mlp_in->blocks.0.mlp_post"):
        graph.parse_edge("blocks.0.mlp_in:0->blocks.0.mlp_out:0")
    with pytest.raises(ValueError, match="source->destination"):
        graph.parse_edge("blocks.0.mlp_in:0")
    block = "blocks.0.mlp_in->blocks.0.mlp_post"
    dst, src = (~graph.edge_support[block]).nonzero()[0].tolist()
    with pytest.raises(ValueError, match="weight is zero") as error:
        graph.parse_edge(graph.edge_name(block, dst, src))
    suggested = str(error.value).split("'")[3]
    assert graph.edge_support[block][graph.parse_edge(suggested)[1:]]


def test_fingerprints_tell_models_apart():
    graph = ChannelGraph.from_model(sparse_model())
    again = ChannelGraph.from_model(sparse_model())
    assert graph == again
    assert hash(graph) == hash(again)
    model = sparse_model()
    row, column = (model.blocks[1].mlp.W_in == 0).nonzero()[0].tolist()
    with torch.no_grad():
        model.blocks[1].mlp.W_in[row, column] = 1.0
    others = [
        ChannelGraph.from_model(model),
        ChannelGraph.from_model(sparse_model(), final_resid=False),
        ChannelGraph.from_model(dense_model()),
        ChannelGraph.from_model(sparse_model(n_head=3, d_head=2)),
        ComponentGraph.from_model(model),
    ]
    assert all(graph != other for other in others)
    assert graph != "graph"
