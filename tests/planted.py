"""An algorithm written by hand into the weights of two models, so that its circuit is known.

A prompt reads `a f b = ?`, where a, f and b are bits, and the answer says whether a and b differ; f
is there to distract. The steps, with the channels of the stream in capitals:

1. At `=`, one head of layer 0 looks at a and copies its BIT to A, another one copies b's to B.
2. There the MLP of layer 0 writes to X whether the two differ: 1 or -1.
3. At `?`, one head of layer 1 looks back at `=` and copies X to Y.
4. There the MLP of layer 1 writes Y to OUT, which the answer is read from.

What carries the bits on this way is needed whatever the ablation. What aims the attention is the
same on a corrupted prompt, so it is needed under mean ablation but not under interchange.
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

PLACE_OF_A, _, PLACE_OF_B, PLACE_OF_EQUALS, PLACE_OF_QUESTION = range(5)
N_POSITIONS = 5

FIRST_POSITION = 4  # the channels below are spare
BIT, A, B, X, Y, OUT, CONSTANT = range(FIRST_POSITION + N_POSITIONS, 16)
D_MODEL = 16

HEAD_OF_A, HEAD_OF_B, HEAD_OF_X = 1, 3, 2
N_HEADS, D_HEAD = 4, 2
NEURONS = (2, 5)
"""The two of each MLP that work: one for each sign."""
D_MLP = 8

SHARPNESS = 4.0
"""What the score of the token that a head looks at has over the others: 95% of its attention."""

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
    *(f"blocks.0.attn_in:{FIRST_POSITION + p}" for p in (PLACE_OF_A, PLACE_OF_B, PLACE_OF_EQUALS)),
    *("blocks.0.q:2", "blocks.0.q:6", "blocks.0.k:2", "blocks.0.k:6"),
    *(f"blocks.1.attn_in:{FIRST_POSITION + p}" for p in (PLACE_OF_EQUALS, PLACE_OF_QUESTION)),
    *("blocks.1.q:4", "blocks.1.k:4"),
)


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, a graph and an ablation, with the circuit that is to be found."""

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
        rest = [other for other in self.names if other != name]
        if self.circuit.is_node_circuit:
            return Circuit.from_node_names(self.graph, rest)
        return Circuit.from_edge_names(self.graph, rest)


@cache
def problems() -> dict[str, Problem]:
    """Both models with both graphs and both ablations."""
    ablations: dict[str, Ablation] = {
        "interchange": InterchangeAblation(),
        "mean": MeanAblation(tokens=task().train.clean),
    }
    found = {}
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
                found[f"{model_name}, {graph.kind}, {name}"] = problem
    return found


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
    # One loud constant channel makes up the norm, and the gains undo it: a norm that does nothing.
    loud = 20.0
    with torch.no_grad():
        model.embed.W_E[:, CONSTANT] = loud
        norms: list[Any] = [model.ln_final]
        norms += [norm for block in model.blocks for norm in (block.ln1, block.ln2)]
        for norm in norms:
            norm.w.fill_(loud / D_MODEL**0.5)
            norm.w[CONSTANT] = 0.1
    return model


@torch.no_grad()
def _write_algorithm(model: Any) -> None:
    for parameter in model.parameters():
        parameter.zero_()
    # The stream holds each token's bit as -1 or 1, and where it stands.
    model.embed.W_E[ZEROS, BIT] = -1.0
    model.embed.W_E[ONES, BIT] = 1.0
    for position in range(N_POSITIONS):
        model.pos_embed.W_pos[position, FIRST_POSITION + position] = 1.0
    # 1. and 3. Three heads move a channel between two positions.
    first, second = model.blocks
    _write_head(first.attn, HEAD_OF_A, PLACE_OF_EQUALS, looks_at=PLACE_OF_A, source=BIT, target=A)
    _write_head(first.attn, HEAD_OF_B, PLACE_OF_EQUALS, looks_at=PLACE_OF_B, source=BIT, target=B)
    _write_head(
        second.attn, HEAD_OF_X, PLACE_OF_QUESTION, looks_at=PLACE_OF_EQUALS, source=X, target=Y
    )
    # 2. X = 2 relu(A - B - 1) + 2 relu(B - A - 1) - 1: each neuron sees one way to differ.
    # 4. OUT = 4 relu(Y) - 4 relu(-Y).
    for neuron, sign in zip(NEURONS, (1.0, -1.0), strict=True):
        first.mlp.W_in[A, neuron], first.mlp.W_in[B, neuron] = sign, -sign
        first.mlp.b_in[neuron] = -1.0
        first.mlp.W_out[neuron, X] = 2.0
        second.mlp.W_in[Y, neuron] = sign
        second.mlp.W_out[neuron, OUT] = 4.0 * sign
    first.mlp.b_out[X] = -1.0
    # OUT counts for one answer and against the other.
    model.unembed.W_U[OUT, DIFFERENT], model.unembed.W_U[OUT, SAME] = 1.0, -1.0


def _write_head(
    attn: Any, head: int, stands_at: int, *, looks_at: int, source: int, target: int
) -> None:
    """At one position copy a channel of another position to the target channel.

    Where the head has nothing to do it looks at all tokens alike.
    """
    attn.W_Q[head, FIRST_POSITION + stands_at, 0] = SHARPNESS * D_HEAD**0.5
    attn.W_K[head, FIRST_POSITION + looks_at, 0] = 1.0
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
    """Do the two bits differ?"""
    generator = torch.Generator().manual_seed(0)
    splits = (_prompts(n_pairs, generator) for n_pairs in (32, 32, 64))
    return Task("differ", *splits)


def _prompts(n_pairs: int, generator: torch.Generator) -> Prompts:
    """Pairs that differ in the bit a or, every other one, b; both members are clean in turn."""
    clean = torch.randint(8, (n_pairs, N_POSITIONS), generator=generator)
    clean[:, PLACE_OF_EQUALS], clean[:, PLACE_OF_QUESTION] = EQUALS, QUESTION
    corrupted = clean.clone()
    for start, place in enumerate((PLACE_OF_A, PLACE_OF_B)):
        corrupted[start::2, place] = (clean[start::2, place] + 4) % 8  # a token of the other bit
    clean, corrupted = torch.cat([clean, corrupted]), torch.cat([corrupted, clean])
    differ = (clean[:, PLACE_OF_A] // 4) != (clean[:, PLACE_OF_B] // 4)
    return Prompts(
        clean=clean,
        corrupted=corrupted,
        answers=torch.where(differ, DIFFERENT, SAME),
        distractors=torch.where(differ, SAME, DIFFERENT),
    )
