"""The model inside `patched` is the circuit, works as ever, and is left as it was found."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching import bind, counted, frozen, patched, reference, run_circuit
from tests.patching import tiny
from tests.patching.tiny import difference

PROMPTS = tiny.prompts()
CASES = [
    (tiny.dense, "LN", ComponentGraph),
    (tiny.dense, "no norm", ChannelGraph),
    (tiny.dense, "grouped queries", ComponentGraph),
    (tiny.dense, "attention only", ComponentGraph),
    (tiny.dense, "attention only", ChannelGraph),
    (tiny.sparse, "all of it", ComponentGraph),
    (tiny.sparse, "all of it", ChannelGraph),
]
each_case = pytest.mark.parametrize(
    ("make", "name", "kind"), CASES, ids=[f"{n}, {k.kind}" for _, n, k in CASES]
)


def state(model: Any) -> dict[str, Any]:
    """All of a model that a patch might leave behind."""
    hooks = {
        name: (
            list(module._forward_hooks.items()),
            list(module._forward_pre_hooks.items()),
            list(module._backward_hooks.items()),
        )
        for name, module in model.named_modules()
    }
    lens = {name: (list(p.fwd_hooks), list(p.bwd_hooks)) for name, p in model.hook_dict.items()}
    parameters = {n: (p.requires_grad, p._version, p.grad) for n, p in model.named_parameters()}
    return {
        "cfg": dict(vars(model.cfg)),
        "hooks": hooks,
        "lens hooks": lens,
        "parameters": parameters,
        "training": [module.training for module in model.modules()],
        "attributes": {name: set(vars(module)) for name, module in model.named_modules()},
    }


def model_with_hooks_of_others(make: Any, name: str) -> Any:
    """One with a permanent hook, a usual one, a frozen parameter and a flag set."""
    model = make(name)
    model.add_perma_hook("blocks.0.hook_resid_pre", lambda value, hook: value * 1.01)
    model.add_hook("blocks.1.attn.hook_z", lambda value, hook: value * 0.99)
    model.unembed.b_U.requires_grad_(False)
    if model.cfg.n_key_value_heads is None:
        model.set_use_split_qkv_input(True)
    model.eval()
    model.blocks[0].train()
    return model


def circuits(graph: Any) -> list[Any]:
    nodes, edges = tiny.random_masks(graph, 0, torch.float32)
    return [
        tiny.random_nodes(graph, 0.7, 0),
        tiny.random_edges(graph, 0.7, 0),
        Masks(graph, nodes, edges),
    ]


@each_case
def test_left_as_found(make: Any, name: str, kind: Any) -> None:
    model = model_with_hooks_of_others(make, name)
    graph = kind.from_model(model)
    before = state(model)
    for circuit in circuits(graph):
        with patched(model, circuit, ablation=InterchangeAblation(), prompts=PROMPTS):
            model(PROMPTS.clean)
            model.run_with_cache(PROMPTS.clean)
        assert state(model) == before


@each_case
def test_left_as_found_after_exceptions(
    make: Any, name: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_with_hooks_of_others(make, name)
    graph = kind.from_model(model)
    before = state(model)
    edges = tiny.random_edges(graph, 0.7, 0)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("on purpose")

    def inside() -> None:
        with patched(model, edges, ablation=InterchangeAblation(), prompts=PROMPTS):
            fail()

    def in_the_forward_pass() -> None:
        with patched(model, edges, ablation=InterchangeAblation(), prompts=PROMPTS):
            model.run_with_hooks(PROMPTS.clean, fwd_hooks=[("blocks.1.hook_resid_pre", fail)])

    def in_binding() -> None:
        model.add_hook("blocks.1.hook_resid_post", fail)
        try:
            with patched(model, edges, ablation=InterchangeAblation(), prompts=PROMPTS):
                pass
        finally:
            model.blocks[1].hook_resid_post.fwd_hooks.pop().hook.remove()

    def in_installing() -> None:
        with monkeypatch.context() as patch:
            bound = bind(model, graph, ZeroAblation())
            patch.setattr(model.blocks[0], "register_forward_pre_hook", fail)
            with patched(model, edges, ablation=bound):
                pass

    def in_attribution() -> None:
        with frozen(model):
            fail()

    steps = [inside, in_the_forward_pass, in_binding, in_attribution]
    for step in (*steps, in_installing):
        with pytest.raises(RuntimeError, match="on purpose"):
            step()
        assert state(model) == before, step
        with patched(model, edges, ablation=ZeroAblation()):  # an outer one resumes
            outer = model(PROMPTS.clean)
            for nested in steps:
                with pytest.raises(RuntimeError, match="on purpose"):
                    nested()
            assert torch.equal(model(PROMPTS.clean), outer)
        assert state(model) == before


@each_case
@torch.no_grad()
def test_nesting(make: Any, name: str, kind: Any) -> None:
    model = make(name)
    graph = kind.from_model(model)
    first, second = tiny.random_edges(graph, 0.6, 0), tiny.random_nodes(graph, 0.6, 1)
    alone = [
        run_circuit(model, c, PROMPTS, ablation=InterchangeAblation()) for c in (first, second)
    ]
    means = MeanAblation(tokens=PROMPTS.corrupted)
    with_means = run_circuit(model, second, PROMPTS, ablation=means)
    with patched(model, first, ablation=InterchangeAblation(), prompts=PROMPTS):
        assert torch.equal(model(PROMPTS.clean), alone[0])
        with patched(model, second, ablation=InterchangeAblation(), prompts=PROMPTS):
            assert torch.equal(model(PROMPTS.clean), alone[1])
            with patched(model, first, ablation=InterchangeAblation(), prompts=PROMPTS):
                assert torch.equal(model(PROMPTS.clean), alone[0])
            assert torch.equal(model(PROMPTS.clean), alone[1])
        assert torch.equal(model(PROMPTS.clean), alone[0])
        # Means are those of the whole model, not of the circuit around.
        assert torch.equal(run_circuit(model, second, PROMPTS, ablation=means), with_means)
        assert torch.equal(model(PROMPTS.clean), alone[0])


@each_case
@torch.no_grad()
def test_transformer_lens_works_inside(make: Any, name: str, kind: Any) -> None:
    model = make(name)
    graph = kind.from_model(model)
    for circuit in circuits(graph):
        with patched(model, circuit, ablation=InterchangeAblation(), prompts=PROMPTS):
            expected = model(PROMPTS.clean)
            # A sparse GPT that somebody watches computes attention by another kernel.
            assert difference(model.run_with_cache(PROMPTS.clean)[0], expected) < 1e-5
            assert torch.equal(model.run_with_hooks(PROMPTS.clean, fwd_hooks=[]), expected)
            assert torch.equal(model.forward(PROMPTS.clean), expected)
            model.add_hook("blocks.0.attn.hook_z", lambda value, hook: value * 0)
            assert not torch.equal(model(PROMPTS.clean), expected)
            model.reset_hooks()
            assert torch.equal(model(PROMPTS.clean), expected)
            model.reset_hooks(including_permanent=True)
            assert torch.equal(model(PROMPTS.clean), expected)
            _, cache = model.run_with_cache(PROMPTS.clean)
            final = cache[f"blocks.{graph.n_layers - 1}.hook_resid_post"]
            logits = model(final, start_at_layer=graph.n_layers, tokens=PROMPTS.clean)
            assert difference(logits, expected) < 1e-5


@torch.no_grad()
def test_caches_hold_what_the_circuit_computes() -> None:
    model = tiny.dense("LN", dtype=torch.float64)
    graph = ComponentGraph.from_model(model)
    circuit = tiny.random_edges(graph, 0.8, 3)
    corrupted = tiny.activations(model, graph, PROMPTS.corrupted)
    written = reference.activations(model, circuit, PROMPTS.clean, ablated=corrupted)
    with patched(model, circuit, ablation=InterchangeAblation(), prompts=PROMPTS):
        _, cache = model.run_with_cache(PROMPTS.clean)
    kept = circuit.connected()
    for layer in range(graph.n_layers):
        z, weight = cache[f"blocks.{layer}.attn.hook_z"], model.blocks[layer].attn.W_O
        heads, mlp = f"blocks.{layer}.heads", f"blocks.{layer}.mlp"
        for head in kept.node_masks[heads].nonzero().flatten().tolist():
            assert difference(z[:, :, head] @ weight[head], written[heads][head]) < 1e-9
        if bool(kept.node_masks[mlp]):
            assert difference(cache[f"blocks.{layer}.hook_mlp_out"], written[mlp][0]) < 1e-9


@torch.no_grad()
def test_caches_of_pruned_nodes_hold_their_ablated_values() -> None:
    model = tiny.sparse("all of it")
    graph = ChannelGraph.from_model(model)
    circuit = tiny.random_nodes(graph, 0.5, 0)
    _, corrupted = model.run_with_cache(PROMPTS.corrupted)
    with patched(model, circuit, ablation=InterchangeAblation(), prompts=PROMPTS):
        _, cache = model.run_with_cache(PROMPTS.clean)
    for name, mask in circuit.node_masks.items():
        hook = graph.sites[name].hook_name
        shape = (*PROMPTS.clean.shape, len(mask))
        found, other = cache[hook].reshape(shape), corrupted[hook].reshape(shape)
        assert difference(found[..., ~mask], other[..., ~mask]) < 1e-5, name


USER_HOOKS = ["blocks.0.attn.hook_z", "blocks.0.hook_mlp_out", "blocks.0.hook_resid_pre"]


@pytest.mark.parametrize("point", USER_HOOKS)
@pytest.mark.parametrize("soft", [False, True])
@torch.no_grad()
def test_hooks_that_change_what_a_writer_writes_reach_the_readers(point: str, soft: bool) -> None:
    """The same change made in the weights of the model that the circuit runs on."""
    model = tiny.dense("LN", dtype=torch.float64)
    graph = ComponentGraph.from_model(model)
    circuit = tiny.random_edges(graph, 0.7, 0)
    bound = bind(model, graph, MeanAblation(tokens=PROMPTS.corrupted))
    masks = Masks.of(circuit)
    if soft:
        edges = {name: mask.requires_grad_() for name, mask in masks.edges.items()}
        masks = Masks(graph, masks.nodes, edges)
    hooks: list[Any] = [(point, lambda value, hook: value * 1.5)]
    with patched(model, masks, ablation=bound):
        by_hook = model.run_with_hooks(PROMPTS.clean, fwd_hooks=hooks)
        without = model(PROMPTS.clean)
        change_weights(model, point)
        by_weights = model(PROMPTS.clean)
    assert difference(by_hook, by_weights) < 1e-9
    assert difference(by_hook, without) > 1e-3


def change_weights(model: Any, point: str) -> None:
    """Make what passes a point 1.5 times as large."""
    block = model.blocks[0]
    parameters = {
        "attn.hook_z": [block.attn.W_O],
        "hook_mlp_out": [block.mlp.W_out, block.mlp.b_out],
        "hook_resid_pre": [model.embed.W_E, model.pos_embed.W_pos],
    }[point.removeprefix("blocks.0.")]
    for parameter in parameters:
        parameter.mul_(1.5)


@each_case
def test_generate_inside(make: Any, name: str, kind: Any) -> None:
    model = make(name)
    graph = kind.from_model(model)
    tokens = PROMPTS.clean[:, :4]
    for per_position in (False, True):
        reference = tiny.prompts(4, 10, seed=2).clean
        bound = bind(model, graph, MeanAblation(tokens=reference, per_position=per_position))
        for circuit in circuits(graph):
            with patched(model, circuit, ablation=bound):
                found = generate(model, tokens, use_past_kv_cache=False)
                expected = tokens
                for _ in range(3):
                    new = model(expected)[:, -1].argmax(-1, keepdim=True)
                    expected = torch.cat([expected, new], 1)
                assert torch.equal(found, expected)
                if hasattr(model, "sparse_cfg"):  # the stock cache needs a tokenizer
                    cached = generate(model, tokens, use_past_kv_cache=True)
                    assert torch.equal(cached, expected)


def generate(model: Any, tokens: Tensor, **options: Any) -> Tensor:
    return model.generate(
        tokens, max_new_tokens=3, do_sample=False, stop_at_eos=False, verbose=False, **options
    )


def test_grouped_queries_do_not_go_on_from_a_cache() -> None:
    model = tiny.dense("grouped queries")
    graph = ComponentGraph.from_model(model)
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 3)
    options: Any = {"past_kv_cache": cache, "start_at_layer": 0}
    with (
        patched(model, tiny.random_edges(graph, 0.5, 0), ablation=ZeroAblation()),
        pytest.raises(ValueError, match="use_past_kv_cache=False"),
    ):
        model(torch.randn(3, 6, 16), **options)


def test_a_circuit_runs_from_the_embedding_on() -> None:
    model = tiny.dense("LN")
    graph = ComponentGraph.from_model(model)
    circuit = tiny.random_edges(graph, 0.5, 0)
    stream = torch.randn(3, 6, 16)
    with patched(model, circuit, ablation=ZeroAblation()):
        model(stream, start_at_layer=0)
        with pytest.raises(ValueError, match="start_at_layer"):
            model(stream, start_at_layer=1)


def test_passes_are_counted_however_the_model_is_called() -> None:
    model = tiny.dense("LN")
    passes = []
    with counted(model, lambda: passes.append(1)):
        model(PROMPTS.clean)
        model.run_with_hooks(PROMPTS.clean, fwd_hooks=[])
        model.run_with_cache(PROMPTS.clean)
    model(PROMPTS.clean)
    assert len(passes) == 3


def test_hook_points_that_do_not_exist_are_errors() -> None:
    from sparse_lens.patching.hooks import Attachment

    keep: Callable[[Tensor], None] = lambda value: None  # noqa: E731
    with pytest.raises(ValueError, match=r"no hook point 'blocks\.7\.hook_z'"):
        Attachment(tiny.dense("LN"), edits={}, captures={"blocks.7.hook_z": keep})
