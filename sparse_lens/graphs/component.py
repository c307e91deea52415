"""The component graph of ACDC, EAP and Edge Pruning: heads and MLPs that write and read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, Literal, cast

import torch
from transformer_lens import HookedTransformerConfig

from sparse_lens.graphs.base import Block, Graph, Site, did_you_mean
from sparse_lens.graphs.checks import check_has_layers, check_stream_is_sum
from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.models.anatomy.hooked_transformer import hooked_transformer_anatomy

EDGES = "edges"
"""The one block of a component graph."""

LETTERS = "qkv"
"""A head reads the residual stream as query, as key and as value."""


@dataclass(frozen=True)
class Sublayer:
    """The heads of a layer, or its MLP, with their indices among the readers and writers.

    Heads have three rows each: first the queries of all heads, then all keys, then all values.
    """

    layer: int
    kind: Literal["heads", "mlp"]

    readers: slice
    """Rows of the block of edges."""

    writers: slice
    """Columns of the block of edges."""

    n_before: int
    """Number of writers that come before; the readers can read from these and no others."""

    def readers_of(self, letter: str) -> slice:
        """The rows of the queries (`q`), keys (`k`) or values (`v`) of a layer's heads."""
        n_heads = self.writers.stop - self.writers.start
        start = self.readers.start + LETTERS.index(letter) * n_heads
        return slice(start, start + n_heads)


@dataclass(frozen=True, eq=False, repr=False)
class ComponentGraph(Graph):
    """Writers (embedding, heads, MLPs) joined to the later readers of the residual stream.

    Readers are the q, k and v inputs of heads (of each query head, also with grouped queries), the
    inputs of MLPs (a mixture of experts counts as one MLP), and `logits`, the final residual
    stream. All edges are in one block, `edges`, of shape [readers, writers]. Names are EAP-IG's
    (Hanna et al. 2403.17806): `input->a0.h1<q>`, `a0.h1->m3`, `m1->logits`; with split embeddings
    the writers `embed` and `pos` replace `input`.

    The nodes are the writers, in the order of the columns, followed by the logits.
    """

    kind: ClassVar[str] = "component"
    fixed_sites: ClassVar[tuple[str, ...]] = ("embed", "logits")

    sublayers: tuple[Sublayer, ...]
    """In forward order; the MLP follows the heads, also in parallel blocks."""

    split_embeddings: bool
    """Token and position embedding are two writers, `embed` and `pos`, instead of one."""

    @classmethod
    def from_model(
        cls, model: torch.nn.Module, *, split_embeddings: bool = False
    ) -> "ComponentGraph":
        """The graph of a model.

        Raises:
            ValueError: when its residual stream is not the sum of what is written to it.
        """
        anatomy, cfg = anatomy_of(model), cast(HookedTransformerConfig, model.cfg)
        return cls._build(cfg, split_embeddings, anatomy)

    @classmethod
    def from_config(
        cls, cfg: HookedTransformerConfig, *, split_embeddings: bool = False
    ) -> "ComponentGraph":
        """The graph of a plain HookedTransformer with this configuration, without its weights."""
        return cls._build(cfg, split_embeddings, hooked_transformer_anatomy(cfg))

    @classmethod
    def _build(
        cls, cfg: HookedTransformerConfig, split_embeddings: bool, anatomy: Anatomy
    ) -> "ComponentGraph":
        check_has_layers(anatomy)
        check_stream_is_sum(anatomy, split_embeddings)
        n_inputs = 2 if split_embeddings else 1
        sites = _sites(cfg, anatomy, n_inputs)
        sublayers = _sublayers(cfg, anatomy, n_inputs)
        n_writers = sum(site.width for site in sites.values()) - 1
        # By reader: the number of writers before it, and its node (a head has three readers).
        n_before, reader_nodes = [], []
        for sublayer in sublayers:
            n_readers = sublayer.readers.stop - sublayer.readers.start
            sublayer_nodes = range(n_writers)[sublayer.writers]
            n_before += [sublayer.n_before] * n_readers
            reader_nodes += [*sublayer_nodes] * (n_readers // len(sublayer_nodes))
        n_before.append(n_writers)
        reader_nodes.append(n_writers)  # the logits are the node after the last writer
        writer_nodes = torch.arange(n_writers)
        support = writer_nodes < torch.tensor(n_before)[:, None]  # [readers, writers]
        block = Block(EDGES, support, dst_nodes=torch.tensor(reader_nodes), src_nodes=writer_nodes)
        return cls(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            d_head=cfg.d_head,
            d_model=cfg.d_model,
            attn_only=anatomy.attn_only,
            parallel=anatomy.parallel,
            sites=MappingProxyType(sites),
            blocks=MappingProxyType({EDGES: block}),
            sublayers=sublayers,
            split_embeddings=split_embeddings,
        )

    @cached_property
    def valued_sites(self) -> Mapping[str, Site]:
        """Those of the writers: the logits only read."""
        return MappingProxyType({name: self.sites[name] for name in self.sites if name != "logits"})

    # Indices of writers (columns) and readers (rows).

    @property
    def n_inputs(self) -> int:
        """Number of writers before the first layer: 1, or 2 with split embeddings."""
        return 2 if self.split_embeddings else 1

    @property
    def block(self) -> Block:
        """The one block of edges, `[readers, writers]`."""
        return self.blocks[EDGES]

    @property
    def n_writers(self) -> int:
        """Number of writers, the columns of the block."""
        return len(self.block.src_nodes)

    @property
    def n_readers(self) -> int:
        """Number of readers, the rows of the block."""
        return len(self.block.dst_nodes)

    @property
    def logits_reader(self) -> slice:
        """The last row, the final residual stream."""
        return slice(self.n_readers - 1, self.n_readers)

    def n_before(self, reader: int) -> int:
        """Number of writers before a reader (a row); it can read from these and no others."""
        return int(self.block.support[reader].count_nonzero())

    def heads(self, layer: int) -> Sublayer:
        """The heads of a layer."""
        return self.sublayers[layer if self.attn_only else 2 * layer]

    def mlp(self, layer: int) -> Sublayer:
        """The MLP of a layer.

        Raises:
            ValueError: for a model that has none.
        """
        if self.attn_only:
            raise ValueError(f"{self} is of a model without MLPs.")
        return self.sublayers[2 * layer + 1]

    # Names.

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Names of the writers, by column."""
        names = ["embed", "pos"] if self.split_embeddings else ["input"]
        for sublayer in self.sublayers:
            if sublayer.kind == "heads":
                names += [f"a{sublayer.layer}.h{head}" for head in range(self.n_heads)]
            else:
                names.append(f"m{sublayer.layer}")
        return tuple(names)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Names of the readers, by row."""
        names = []
        for sublayer in self.sublayers:
            nodes = self.writers[sublayer.writers]
            if sublayer.kind == "heads":
                names += [f"{head}<{letter}>" for letter in LETTERS for head in nodes]
            else:
                names += nodes
        return (*names, "logits")

    @cached_property
    def _columns(self) -> dict[str, int]:
        """By the name of a writer."""
        return {name: column for column, name in enumerate(self.writers)}

    @cached_property
    def _rows(self) -> dict[str, int]:
        """By the name of a reader."""
        return {name: row for row, name in enumerate(self.readers)}

    def node_name(self, site: str, index: int) -> str:
        return (*self.writers, "logits")[self.node_slices[site].start + index]

    def edge_name(self, block: str, dst: int, src: int) -> str:
        return f"{self.writers[src]}->{self.readers[dst]}"

    def port(self, block: str, dst: int) -> str:
        return self._ports[dst]

    @cached_property
    def _ports(self) -> tuple[str, ...]:
        """By reader."""
        ports: list[str] = []
        for sublayer in self.sublayers:
            if sublayer.kind == "heads":
                ports += [letter for letter in LETTERS for _ in range(self.n_heads)]
            else:
                ports.append("")
        return (*ports, "")

    def parse_node(self, name: str) -> tuple[str, int]:
        if name == "logits":
            return "logits", 0
        if name not in self._columns:
            hint = did_you_mean(name, [*self.writers, "logits"])
            raise ValueError(f"{self} has no node {name!r}.{hint}")
        node = self._columns[name]
        if node < self.n_inputs:
            return "embed", node
        match = re.fullmatch(r"(?:a(\d+)\.h(\d+))|m(\d+)", name)
        layer, head, mlp_layer = match.groups() if match else (None, None, None)
        if layer is None:
            return f"blocks.{mlp_layer}.mlp", 0
        return f"blocks.{layer}.heads", int(head or 0)

    def parse_edge(self, name: str) -> tuple[str, int, int]:
        writer, arrow, reader = name.partition("->")
        for end, known in ((writer, self._columns), (reader, self._rows)):
            if not arrow or end not in known:
                reason = (
                    "no writer or reader" if arrow else "no '->' between a writer and a reader,"
                )
                hint = did_you_mean(end, list(known))
                raise ValueError(f"{self} has no edge {name!r}: {reason} {end!r}.{hint}")
        dst, src = self._rows[reader], self._columns[writer]
        if not bool(self.block.support[dst, src]):
            last = self.n_before(dst) - 1
            raise ValueError(
                f"{self} has no edge {name!r}: {reader!r} reads the stream before {writer!r} "
                f"writes to it. It reads {self.writers[0]!r} to {self.writers[last]!r}."
            )
        return EDGES, dst, src


def _sublayers(
    cfg: HookedTransformerConfig, anatomy: Anatomy, n_inputs: int
) -> tuple[Sublayer, ...]:
    """The sublayers in forward order, with rows and columns counted up from the first."""
    sublayers: list[Sublayer] = []
    n_readers, n_writers = 0, n_inputs

    for layer in range(cfg.n_layers):
        readers = slice(n_readers, n_readers + len(LETTERS) * cfg.n_heads)
        writers = slice(n_writers, n_writers + cfg.n_heads)
        sublayers.append(Sublayer(layer, "heads", readers, writers, n_before=writers.start))
        if not anatomy.attn_only:
            n_before = writers.start if anatomy.parallel else writers.stop
            readers = slice(readers.stop, readers.stop + 1)
            writers = slice(writers.stop, writers.stop + 1)
            sublayers.append(Sublayer(layer, "mlp", readers, writers, n_before))
        n_readers, n_writers = readers.stop, writers.stop
    return tuple(sublayers)


def _sites(cfg: HookedTransformerConfig, anatomy: Anatomy, n_inputs: int) -> dict[str, Site]:
    first = anatomy.first_stream if n_inputs == 1 else anatomy.embeddings[0]
    sites = [Site("embed", n_inputs, first)]
    for layer in range(cfg.n_layers):
        prefix = f"blocks.{layer}"
        hook_names = (anatomy.z(layer), anatomy.attn_stream(layer))
        sites.append(Site(f"{prefix}.heads", cfg.n_heads, *hook_names))
        if not anatomy.attn_only:
            hook_names = (anatomy.mlp_out(layer), anatomy.mlp_stream(layer))
            sites.append(Site(f"{prefix}.mlp", 1, *hook_names))
    sites.append(Site("logits", 1, anatomy.final_stream, anatomy.final_stream))
    return {site.name: site for site in sites}
