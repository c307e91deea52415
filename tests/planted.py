"""An algorithm written by hand into the weights of two models, whose circuit is therefore known.

A prompt reads `a f b = ?`, where a, f and b are bits, and the answer says whether a and b differ; f
is a distraction. The steps, with the channels of the stream in capitals:

1. At `=`, one head of layer 0 attends to a and copies its BIT to A, another one copies that of b
   to B.
2. At `=`, the MLP of layer 0 writes to X whether the two differ: 1 or -1.
3. At `?`, one head of layer 1 attends to `=` and copies X to Y.
4. At `?`, the MLP of layer 1 writes Y to OUT, which the unembedding reads the answer from.

The edges and nodes that carry the bits are needed under every ablation. Those that aim the
attention have the same values on a corrupted prompt, so they are needed under mean ablation, but
not under interchange.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.ablation import Ablation, InterchangeAblation, MeanAblation
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.models.config import SparseGPTConfig
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.task import Prompts, Task

ZEROS, ONES = range(4), range(4, 8)
"""Each bit has four tokens, so that prompts differ in more than their bits."""
EQUALS, QUESTION, SAME, DIFFERENT = range(8, 12)
VOCAB = 12

POS_A, _, POS_B, POS_EQUALS, POS_QUESTION = range(5)
N_POSITIONS = 5

FIRST_POSITION = 4  # the channels below are spare
BIT, A, B, X, Y, OUT, CONSTANT = range(FIRST_POSITION + N_POSITIONS, 16)
D_MODEL = 16

HEAD_OF_A, HEAD_OF_B, HEAD_OF_X = 1, 3, 2
N_HEADS, D_HEAD = 4, 2
NEURONS = (2, 5)
"""The two neurons of each MLP with weights, one for each sign."""
D_MLP = 8

SHARPNESS = 4.0
"""Attention score of the token that a head attends to, above the others: a pattern of 95%."""

# Edges and channels that carry the bits, and those that aim the attention.
CARRYING_EDGES = (
    *("input->a0.h1<v>", "input->a0.h3<v>", "a0.h1->m0", "a0.h3->m0"),
    *("m0->a1.h2<v>", "a1.h2->m1", "m1->logits"),
)
AIMING_EDGES = tuple(f"input->{head}<{x}>" for head in ("a0.h1", "a0.h3", "a1.h2") for x in "qk")

CARRYING_CHANNELS = (
    *(f"blocks.0.attn_in:{BIT}", "blocks.0.v:2", "blocks.0.v:6"),
    *(f"blocks.0.attn_out:{A}", f"blocks.0.attn_out:{B}"),
    *(f"blocks.0.mlp_in:{A}", f"blocks.0.mlp_in:{B}"),
    *("blocks.0.mlp_post:2", "blocks.0.mlp_post:5", f"blocks.0.mlp_out:{X}"),
    *(f"blocks.1.attn_in:{X}", "blocks.1.v:4", f"blocks.1.attn_out:{Y}", f"blocks.1.mlp_in:{Y}"),
    *("blocks.1.mlp_post:2", "blocks.1.mlp_post:5", f"blocks.1.mlp_out:{OUT}"),
    f"final_resid:{OUT}",
)
AIMING_CHANNELS = (
    *(f"blocks.0.attn_in:{FIRST_POSITION + p}" for p in (POS_A, POS_B, POS_EQUALS)),
    *("blocks.0.q:2", "blocks.0.q:6", "blocks.0.k:2", "blocks.0.k:6"),
    *(f"blocks.1.attn_in:{FIRST_POSITION + p}" for p in (POS_EQUALS, POS_QUESTION)),
    *("blocks.1.q:4", "blocks.1.k:4"),
)


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, a graph and an ablation, with the circuit that a method should find."""

    model: HookedTransformer
    graph: Graph
    ablation: Ablation
    circuit: Circuit
    """Edges of a component graph, nodes of a channel graph."""

    @property
    def names(self) -> list[str]:
        """Names of the planted edges or nodes."""
        if self.circuit.is_node_circuit:
            return self.circuit.node_names()
        return self.circuit.edge_names()

    @property
    def node_circuit(self) -> Circuit:
        """The circuit as nodes."""
        return Circuit.from_node_names(self.graph, self.circuit.node_names())

    def without(self, name: str) -> Circuit:
        """The planted circuit without one of its edges or nodes."""
        remaining = [kept for kept in self.names if kept != name]
        if self.circuit.is_node_circuit:
            return Circuit.from_node_names(self.graph, remaining)
        return Circuit.from_edge_names(self.graph, remaining)


@cache
def problems() -> dict[str, Problem]:
    """By name every combination of a model, a graph and an ablation."""
    ablations: dict[str, Ablation] = {
        "interchange": InterchangeAblation(),
        "mean": MeanAblation(tokens=task().train.clean),
    }
    problems_by_name = {}
    for model_name, model in (("dense", dense_model()), ("sparse", sparse_model())):
        component, channel = ComponentGraph.from_model(model), ChannelGraph.from_model(model)
        for name, ablation in ablations.items():
            edges, channels = CARRYING_EDGES, CARRYING_CHANNELS
            if name == "mean":
                edges, channels = edges + AIMING_EDGES, channels + AIMING_CHANNELS
            for graph, circuit in (
                (component, Circuit.from_edge_names(component, edges)),
                (channel, Circuit.from_node_names(channel, channels)),
            ):
                problem = Problem(model, graph, ablation, circuit)
                problems_by_name[f"{model_name}, {graph.kind}, {name}"] = problem
    return problems_by_name


def dense_model() -> HookedTransformer:
    """The algorithm in a HookedTransformer without norms, and noise in every weight."""
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=2,
            n_heads=N_HEADS,
            d_head=D_HEAD,
            d_model=D_MODEL,
            d_mlp=D_MLP,
            d_vocab=VOCAB,
            n_ctx=N_POSITIONS,
            act_fn="relu",
            normalization_type=None,
            device="cpu",
            seed=0,
        )
    )
    _write_algorithm(model)
    _add_noise(model, density=1.0, scale=0.02)
    return model


def sparse_model() -> HookedSparseGPT:
    """The algorithm in a sparse GPT, and noise in a tenth of the other weights."""
    model = HookedSparseGPT(
        SparseGPTConfig(
            n_layer=2,
            n_head=N_HEADS,
            d_head=D_HEAD,
            d_model=D_MODEL,
            d_mlp=D_MLP,
            vocab_size=VOCAB,
            block_size=N_POSITIONS,
            activation_type="relu",
            rms_norm=True,
            tied_unembed=False,
        ),
        device="cpu",
    )
    _write_algorithm(model)
    _add_noise(model, density=0.1, scale=0.05)
    # One large constant channel dominates the RMS, which the gains undo: the norms change nothing.
    constant = 20.0
    with torch.no_grad():
        model.embed.W_E[:, CONSTANT] = constant
        norms: list[Any] = [model.ln_final]
        norms += [norm for block in model.blocks for norm in (block.ln1, block.ln2)]
        for norm in norms:
            norm.w.fill_(constant / D_MODEL**0.5)
            norm.w[CONSTANT] = 0.1
    return model


@torch.no_grad()
def _write_algorithm(model: Any) -> None:
    for parameter in model.parameters():
        parameter.zero_()
    # The stream holds the bit of each token as -1 or 1, and its position.
    model.embed.W_E[ZEROS, BIT] = -1.0
    model.embed.W_E[ONES, BIT] = 1.0
    for position in range(N_POSITIONS):
        model.pos_embed.W_pos[position, FIRST_POSITION + position] = 1.0
    # 1. and 3. Three heads move a channel between two positions.
    first, second = model.blocks
    _write_head(first.attn, HEAD_OF_A, POS_EQUALS, key=POS_A, source=BIT, target=A)
    _write_head(first.attn, HEAD_OF_B, POS_EQUALS, key=POS_B, source=BIT, target=B)
    _write_head(second.attn, HEAD_OF_X, POS_QUESTION, key=POS_EQUALS, source=X, target=Y)
    # 2. X = 2 relu(A - B - 1) + 2 relu(B - A - 1) - 1: each neuron detects one way to differ.
    # 4. OUT = 4 relu(Y) - 4 relu(-Y).
    for neuron, sign in zip(NEURONS, (1.0, -1.0), strict=True):
        first.mlp.W_in[A, neuron], first.mlp.W_in[B, neuron] = sign, -sign
        first.mlp.b_in[neuron] = -1.0
        first.mlp.W_out[neuron, X] = 2.0
        second.mlp.W_in[Y, neuron] = sign
        second.mlp.W_out[neuron, OUT] = 4.0 * sign
    first.mlp.b_out[X] = -1.0
    # OUT adds to the logit of one answer and subtracts from that of the other.
    model.unembed.W_U[OUT, DIFFERENT], model.unembed.W_U[OUT, SAME] = 1.0, -1.0


def _write_head(attn: Any, head: int, query: int, *, key: int, source: int, target: int) -> None:
    """At the query's position copy the source channel of the key's position to the target channel.

    At the other positions the head attends to all tokens equally.
    """
    attn.W_Q[head, FIRST_POSITION + query, 0] = SHARPNESS * D_HEAD**0.5
    attn.W_K[head, FIRST_POSITION + key, 0] = 1.0
    attn.W_V[head, source, 0] = 1.0
    attn.W_O[head, 0, target] = 1.0


@torch.no_grad()
def _add_noise(model: Any, *, density: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * scale
        kept = torch.rand(parameter.shape, generator=generator) < density
        parameter += noise * kept


@cache
def task() -> Task:
    """The task: do the bits a and b differ?"""
    generator = torch.Generator().manual_seed(0)
    splits = (_prompts(n_pairs, generator) for n_pairs in (32, 32, 64))
    return Task("differ", *splits)


def _prompts(n_pairs: int, generator: torch.Generator) -> Prompts:
    """Pairs that differ in a or, alternately, in b; each member is the clean prompt once."""
    clean = torch.randint(8, (n_pairs, N_POSITIONS), generator=generator)
    clean[:, POS_EQUALS], clean[:, POS_QUESTION] = EQUALS, QUESTION
    corrupted = clean.clone()
    for start, position in enumerate((POS_A, POS_B)):
        # Four tokens further is a token of the other bit.
        corrupted[start::2, position] = (clean[start::2, position] + 4) % 8
    clean, corrupted = torch.cat([clean, corrupted]), torch.cat([corrupted, clean])
    differ = (clean[:, POS_A] // 4) != (clean[:, POS_B] // 4)
    return Prompts(
        clean=clean,
        corrupted=corrupted,
        answers=torch.where(differ, DIFFERENT, SAME),
        distractors=torch.where(differ, SAME, DIFFERENT),
    )
