"""The component graph against published counts, EAP-IG's files and a list made name by name."""

import json
import time

import pytest
import torch
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ComponentGraph
from tests.graphs.tiny import config, dense_model, sparse_model

LLAMA = {"n_key_value_heads": 8, "gated_mlp": True, "positional_embedding_type": "rotary"}


@pytest.mark.parametrize(
    ("n_layers", "n_heads", "d_model", "changes", "n_edges"),
    [
        pytest.param(12, 12, 768, {}, 32_491, id="GPT-2 small"),
        pytest.param(24, 16, 1024, {}, 231_877, id="GPT-2 medium"),
        pytest.param(32, 32, 4096, LLAMA | {"rotary_dim": 128}, 1_592_881, id="Llama-3-8B"),
        pytest.param(
            40,
            40,
            5120,
            LLAMA | {"n_key_value_heads": None, "rotary_dim": 128},
            3_877_661,
            id="CodeLlama-13B",
        ),
        pytest.param(
            26,
            8,
            2304,
            LLAMA
            | {
                "n_key_value_heads": 4,
                "rotary_dim": 288,
                "use_normalization_before_and_after": True,
            },
            74_218,
            id="Gemma-2-2B",
        ),
        pytest.param(6, 8, 512, {"parallel_attn_mlp": True}, 3_580, id="Pythia-70M"),
    ],
)
def test_published_counts_from_a_config_alone(n_layers, n_heads, d_model, changes, n_edges):
    start = time.perf_counter()
    graph = ComponentGraph.from_config(config(n_layers, n_heads, d_model, **changes))
    assert graph.n_edges == n_edges
    assert time.perf_counter() - start < 1


def test_nodes_and_split_embeddings_of_gpt2_small():
    cfg = config(12, 12, 768)
    graph = ComponentGraph.from_config(cfg)
    assert (graph.n_nodes, graph.n_writers, graph.n_readers) == (158, 157, 445)
    split = ComponentGraph.from_config(cfg, split_embeddings=True)
    assert (split.n_nodes, split.n_edges) == (159, 32_936)
    assert next(iter(split.edge_names())) == "embed->a0.h0<q>"
    assert sum(site.width for site in split.valued_sites.values()) == split.n_writers


def slow_edge_names(n_layers, n_heads, *, parallel=False, mlps=True, inputs=("input",)):
    """Edges one by one: reader after reader, each with the writers before it."""
    stream, names = list(inputs), []
    for layer in range(n_layers):
        heads = [f"a{layer}.h{head}" for head in range(n_heads)]
        mlp = [f"m{layer}"] * mlps
        reads = [f"{head}<{letter}>" for letter in "qkv" for head in heads]
        names += [f"{writer}->{reader}" for reader in reads for writer in stream]
        before_mlp = stream if parallel else stream + heads
        names += [f"{writer}->{reader}" for reader in mlp for writer in before_mlp]
        stream += heads + mlp
    return names + [f"{writer}->logits" for writer in stream]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"parallel_attn_mlp": True}, {"parallel": True}),
        ({"attn_only": True}, {"mlps": False}),
        ({"n_heads": 1, "n_layers": 1}, {}),
        ({"num_experts": 4, "experts_per_token": 2, "gated_mlp": True}, {}),
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_edges_are_those_of_a_slow_list(changes, options, split):
    sizes = {"n_layers": 3, "n_heads": 2} | changes
    graph = ComponentGraph.from_config(config(**sizes), split_embeddings=split)
    inputs = ("embed", "pos") if split else ("input",)
    expected = slow_edge_names(sizes["n_layers"], sizes["n_heads"], inputs=inputs, **options)
    assert list(graph.edge_names()) == expected
    assert graph.n_edges == len(expected)
    for name in expected:
        assert graph.edge_name(*graph.parse_edge(name)) == name
    nodes = list(graph.node_names())
    assert nodes == [*graph.writers, "logits"]
    assert [graph.node_name(*graph.parse_node(name)) for name in nodes] == nodes


@pytest.mark.parametrize("name", ["ln_gelu", "parallel_ln"])
def test_names_of_the_reference_program(fixtures, name):
    reference = json.loads((fixtures / "component_graph" / f"{name}.json").read_text())
    sizes = ("n_layers", "n_heads", "d_model", "parallel_attn_mlp")
    graph = ComponentGraph.from_config(config(**{key: reference["config"][key] for key in sizes}))
    assert sorted(graph.edge_names()) == sorted(reference["edges"])
    assert list(Circuit.full(graph).to_eap_ig_json()["edges"]) == reference["edges"]


def test_published_circuits_have_only_known_edges(fixtures):
    graph = ComponentGraph.from_config(config(12, 12, 768))
    for name, n_edges in (("ioi", 963), ("greater_than", 235)):
        path = fixtures / "circuits" / f"{name}_gpt2_small_canonical.json"
        edges = json.loads(path.read_text())
        assert len({graph.parse_edge(edge) for edge in edges}) == n_edges


@pytest.mark.parametrize("changes", [{}, {"parallel_attn_mlp": True}, {"attn_only": True}])
def test_slices_of_readers_and_writers_agree_with_names(changes):
    graph = ComponentGraph.from_config(config(3, 2, **changes))
    for layer in range(3):
        assert graph.writers[graph.heads(layer).writers] == (f"a{layer}.h0", f"a{layer}.h1")
        if graph.attn_only:
            with pytest.raises(ValueError, match="without MLPs"):
                graph.mlp(layer)
        else:
            assert graph.writers[graph.mlp(layer).writers] == (f"m{layer}",)
            assert graph.readers[graph.mlp(layer).readers] == (f"m{layer}",)
        for letter in "qkv":
            heads = (f"a{layer}.h0<{letter}>", f"a{layer}.h1<{letter}>")
            assert graph.readers[graph.heads(layer).readers_of(letter)] == heads
        every = [graph.readers[graph.heads(layer).readers_of(letter)] for letter in "qkv"]
        assert graph.readers[graph.heads(layer).readers] == sum(every, ())
    assert graph.readers[graph.logits_reader] == ("logits",)


def test_readers_belong_to_their_node():
    graph = ComponentGraph.from_config(config(3, 2))
    nodes, block = list(graph.node_names()), graph.block
    assert [nodes[node] for node in block.src_nodes.tolist()] == list(graph.writers)
    readers = [reader.split("<")[0] for reader in graph.readers]
    assert [nodes[node] for node in block.dst_nodes.tolist()] == readers


@pytest.mark.parametrize("changes", [{}, {"parallel_attn_mlp": True}, {"attn_only": True}])
def test_sublayers_stand_in_forward_order_and_read_from_all_writers_before_them(changes):
    graph = ComponentGraph.from_config(config(3, 2, **changes))
    n_readers, n_writers = 0, graph.n_inputs
    for sublayer in graph.sublayers:
        assert (sublayer.readers.start, sublayer.writers.start) == (n_readers, n_writers)
        n_readers, n_writers = sublayer.readers.stop, sublayer.writers.stop
        seen = graph.block.support[sublayer.readers]
        assert bool(seen[:, : sublayer.n_before].all())
        assert not bool(seen[:, sublayer.n_before :].any())
    assert (n_readers, n_writers) == (graph.n_readers - 1, graph.n_writers)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel_attn_mlp": True, "positional_embedding_type": "rotary", "rotary_dim": 2},
        {"n_key_value_heads": 1, "gated_mlp": True, "normalization_type": "RMS"},
        {"attn_only": True},
    ],
)
def test_hook_points_exist_on_the_model(changes):
    model = HookedTransformer(config(**changes))
    for site in ComponentGraph.from_model(model).sites.values():
        assert site.hook_name in model.hook_dict
        assert site.input_hook_name is None or site.input_hook_name in model.hook_dict


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("input->a0.h7<q>", "a0.h1<q>"),
        ("inptu->m0", "input"),
        ("m1->a1.h0<q>", "before 'm1' writes"),
        ("a0.h0->a0.h1<q>", "reads 'input' to 'input'"),
        ("a0.h0", "no '->'"),
        ("logits->m0", "no writer"),
        ("", "no '->'"),
    ],
)
def test_unknown_edges_are_refused_with_a_hint(name, hint):
    graph = ComponentGraph.from_config(config())
    with pytest.raises(ValueError, match="has no edge") as error:
        graph.parse_edge(name)
    assert hint in str(error.value)


def test_unknown_nodes_are_refused_with_a_hint():
    graph = ComponentGraph.from_config(config())
    with pytest.raises(ValueError, match=r"no node 'a0.h9'.*a0.h0"):
        graph.parse_node("a0.h9")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"original_architecture": "BertForMaskedLM"}, "decoder-only"),
        ({"original_architecture": "T5ForConditionalGeneration"}, "decoder-only"),
        ({"positional_embedding_type": "shortformer"}, "shortformer"),
        ({"n_layers": 0}, "a model with layers"),
    ],
)
def test_refused_configurations(changes, reason):
    with pytest.raises(ValueError, match=reason):
        ComponentGraph.from_config(config(**changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"positional_embedding_type": "rotary", "rotary_dim": 2}, "rotary"),
        ({"post_embedding_ln": True}, "post_embedding_ln"),
    ],
)
def test_embeddings_that_cannot_be_split(changes, reason):
    ComponentGraph.from_config(config(**changes))
    with pytest.raises(ValueError, match=reason):
        ComponentGraph.from_config(config(**changes), split_embeddings=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"residual_activation_type": "relu"}, "residual_activation_type 'relu'"),
        ({"afrac": 0.5, "afrac_loctypes": "attn_in,resid_post_attn"}, "resid_post_attn"),
        ({"afrac": 0.5, "afrac_loctypes": "resid_post_mlp"}, "resid_post_mlp"),
    ],
)
def test_sparse_models_whose_stream_is_not_a_sum(changes, reason):
    with pytest.raises(ValueError, match=reason):
        ComponentGraph.from_model(sparse_model(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"afrac": 0.5},
        {"afrac": 1.0, "afrac_loctypes": "resid_post_mlp"},
        {"afrac_loctypes": "resid_post_mlp"},
        {"d_pos_emb": 3},
    ],
)
def test_sparse_models_whose_stream_is_a_sum(changes):
    graph = ComponentGraph.from_model(sparse_model(**changes))
    assert graph.n_edges == ComponentGraph.from_model(dense_model()).n_edges


def test_concatenated_positions_cannot_be_split_off():
    with pytest.raises(ValueError, match="concatenates its position embedding"):
        ComponentGraph.from_model(sparse_model(d_pos_emb=3), split_embeddings=True)


def test_only_decoders_are_taken():
    with pytest.raises(ValueError, match="got Linear"):
        ComponentGraph.from_model(torch.nn.Linear(2, 2))


def test_fingerprints_tell_layouts_apart():
    plain = ComponentGraph.from_config(config(3))
    assert plain == ComponentGraph.from_model(HookedTransformer(config(3)))
    assert hash(plain) == hash(ComponentGraph.from_config(config(3)))
    others = [
        ComponentGraph.from_config(config(4)),
        ComponentGraph.from_config(config(3, 4)),
        ComponentGraph.from_config(config(3, d_model=8)),
        ComponentGraph.from_config(config(3, parallel_attn_mlp=True)),
        ComponentGraph.from_config(config(3, attn_only=True)),
        ComponentGraph.from_config(config(3), split_embeddings=True),
    ]
    assert len({plain.fingerprint, *(graph.fingerprint for graph in others)}) == 1 + len(others)


@pytest.mark.parametrize("changes", [{}, {"parallel_attn_mlp": True}, {"attn_only": True}])
def test_ports_are_the_letters_in_the_readers_names(changes):
    graph = ComponentGraph.from_config(config(3, 2, **changes))
    for row, reader in enumerate(graph.readers):
        assert graph.port("edges", row) == (reader[-2] if reader.endswith(">") else "")
