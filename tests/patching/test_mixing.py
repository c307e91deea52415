"""The store and its gradients against plain autograd on a slow version."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_lens.ablation import ZeroAblation
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching import patched
from sparse_lens.patching.component import mixing as mixing_module
from sparse_lens.patching.component.mixing import Store
from sparse_lens.patching.component.reading import attention_reader
from tests.patching import tiny
from tests.patching.tiny import difference

SHAPE = (2, 3, 16)
GROUPS = (1, 2, 2)
"""Writers that write together, one group after the other."""


def inputs(seed: int = 0) -> dict[str, Tensor]:
    """Leaves: what writers write before reading anything, masks, and a stream."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "live": leaf(sum(GROUPS), *SHAPE),
        "stream": leaf(*SHAPE),
        "cut": leaf(len(GROUPS), 4, sum(GROUPS)),
    }


def run(leaves: dict[str, Tensor], ablated: Tensor, *, fast: bool, model: Any = None) -> Tensor:
    """A chain: each group writes, readers mix, and what they see enters what is written next."""
    store = Store(sum(GROUPS), leaves["stream"])
    stream, start, seen = leaves["stream"], 0, []
    written: list[Tensor] = []
    for group, cut in zip(GROUPS, leaves["cut"], strict=True):
        where = slice(start, start + group)
        live = leaves["live"][where] + stream.tanh()
        start += group
        written.append(ablated[where] - live)
        if fast:
            store.write(live, ablated[where], where)
            streams = store.mix(cut, stream)
        else:
            streams = stream + torch.einsum("rw,wbpd->rbpd", cut[:, :start], torch.cat(written))
        if model is not None:
            streams = project(model, store, cut, stream, streams, fast=fast)
        seen.append(streams)
        stream = stream + streams.sin().mean(0).mean(-1, keepdim=True)
    return torch.cat([s.flatten() for s in seen])


def project(model: Any, store: Store, cut: Tensor, stream: Tensor, streams: Tensor, *, fast: bool):
    attn, block = model.blocks[0].attn, model.blocks[0]
    if fast:
        reader = attention_reader(model, 0)
        return store.read(cut, stream, reader, attn.W_Q, attn.b_Q)
    read = torch.stack([block.ln1(s) for s in streams])
    return torch.einsum("rbpd,rdh->rbph", read, attn.W_Q) + attn.b_Q[:, None, None]


@pytest.mark.parametrize("chunk", [2**21, 64])
@pytest.mark.parametrize("name", [None, "LN", "LNPre", "RMS", "RMSPre", "no norm"])
def test_values_and_gradients(
    name: str | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixing_module, "_MOST_ON_CPU", chunk)
    model = None if name is None else tiny.dense(name, dtype=torch.float64)
    leaves = inputs()
    ablated = torch.randn(sum(GROUPS), *SHAPE, dtype=torch.float64)
    target = torch.randn(10**6, dtype=torch.float64)
    slow = run(leaves, ablated, fast=False, model=model)
    fast = run(leaves, ablated, fast=True, model=model)
    assert difference(fast, slow) < 1e-12
    wanted = torch.autograd.grad((slow * target[: len(slow)]).sum(), list(leaves.values()))
    got = torch.autograd.grad((fast * target[: len(fast)]).sum(), list(leaves.values()))
    for key, a, b in zip(leaves, got, wanted, strict=True):
        assert difference(a, b) < 1e-10, key


def test_gradcheck() -> None:
    ablated = torch.randn(sum(GROUPS), *SHAPE, dtype=torch.float64)

    def function(live: Tensor, stream: Tensor, cut: Tensor) -> Tensor:
        leaves = {"live": live, "stream": stream, "cut": cut}
        return run(leaves, ablated, fast=True)[::23]

    assert torch.autograd.gradcheck(function, tuple(inputs().values()))


def test_backward_passes_do_not_leak_into_one_another() -> None:
    leaves = inputs()
    ablated = torch.randn(sum(GROUPS), *SHAPE, dtype=torch.float64)
    fast = run(leaves, ablated, fast=True)
    wanted = torch.autograd.grad(fast.sin().sum(), list(leaves.values()), retain_graph=True)
    # One that stops at the masks and never reaches the writers, one of another part, and again.
    torch.autograd.grad(fast.sum(), leaves["cut"], retain_graph=True)
    torch.autograd.grad(fast[:100].sum(), leaves["live"], retain_graph=True)
    again = torch.autograd.grad(fast.sin().sum(), list(leaves.values()))
    assert all(torch.equal(a, b) for a, b in zip(wanted, again, strict=True))


def test_two_forward_passes_before_their_backward_passes() -> None:
    first, second = inputs(0), inputs(1)
    ablated = torch.randn(sum(GROUPS), *SHAPE, dtype=torch.float64)
    outs = [run(leaves, ablated, fast=True) for leaves in (first, second)]
    for leaves, out in zip((first, second), outs, strict=True):
        wanted = torch.autograd.grad(run(leaves, ablated, fast=False).sum(), list(leaves.values()))
        got = torch.autograd.grad(out.sum(), list(leaves.values()))
        assert all(difference(a, b) < 1e-10 for a, b in zip(got, wanted, strict=True))


def n_tensors() -> int:
    return sum(issubclass(type(x), Tensor) for x in gc.get_objects())


@pytest.mark.parametrize("kind", [ComponentGraph, ChannelGraph])
def test_memory_goes_with_the_context_and_without_the_garbage_collector(kind: Any) -> None:
    model = tiny.dense("LN")
    graph = kind.from_model(model)
    nodes, edges = tiny.random_masks(graph, 0, torch.float32)
    tokens = tiny.prompts().clean
    masks = Masks(graph, nodes, edges)

    def step() -> None:
        with patched(model, masks, ablation=ZeroAblation()):
            loss = model(tokens).sum()
        loss.backward()

    step()  # makes the leaves' gradients
    gc.collect()
    gc.disable()
    try:
        before = n_tensors()
        step()
        assert n_tensors() == before
    finally:
        gc.enable()


def test_masks_of_a_low_precision_model_keep_their_precision() -> None:
    for kind in (ComponentGraph, ChannelGraph):
        model = tiny.dense("LN", dtype=torch.bfloat16)
        graph = kind.from_model(model)
        nodes, edges = tiny.random_masks(graph, 0, torch.float32)
        leaves = [*nodes.values(), *edges.values()]
        with patched(model, Masks(graph, nodes, edges), ablation=ZeroAblation()):
            logits = model(tiny.prompts().clean)
        assert logits.dtype == torch.bfloat16
        gradients = torch.autograd.grad(logits.float().square().mean(), leaves)
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        # Finer than bfloat16's 8 bits: sums over tokens were taken in float32.
        node_gradients = torch.cat(gradients[: len(nodes)])
        assert not torch.equal(node_gradients, node_gradients.bfloat16().float())
