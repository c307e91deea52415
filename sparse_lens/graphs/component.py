"""The component graph: what heads and MLPs write, and who reads it (ACDC, EAP, Edge Pruning)."""

import re
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens import HookedTransformerConfig

from sparse_lens.graphs.base import Ends, Graph, Site, did_you_mean
from sparse_lens.graphs.checks import check_has_layers, check_stream_is_sum
from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.models.anatomy.hooked_transformer import hooked_transformer_anatomy

EDGES = "edges"
"""The one block of a component graph."""

LETTERS = "qkv"
"""A head reads three times: as query, key and value."""


@dataclass(frozen=True, eq=False, repr=False)
class ComponentGraph(Graph):
    """Writers (embedding, heads, MLPs) joined to the later readers of the residual stream.

    A head reads at its q, k and v inputs (with grouped queries, too, one each per query head), an
    MLP once (a mixture of experts counts as one MLP), and the final residual stream as `logits`.
    Every edge is in the one block `edges`, of shape [readers, writers]. Names are EAP-IG's
    (Hanna et al. 2403.17806): `input->a0.h1<q>`, `a0.h1->m3`, `m1->logits`; with split embeddings
    `embed` and `pos` stand in the place of `input`.

    The nodes in their order are the writers in theirs, followed by the logits.
    """

    kind: ClassVar[str] = "component"
    fixed_sites: ClassVar[tuple[str, ...]] = ("embed", "logits")

    split_embeddings: bool
    """Token and position embedding are two writers instead of one."""

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
        """The graph of any plain model with this configuration; no weights are needed."""
        return cls._build(cfg, split_embeddings, hooked_transformer_anatomy(cfg))

    @classmethod
    def _build(
        cls, cfg: HookedTransformerConfig, split_embeddings: bool, anatomy: Anatomy
    ) -> "ComponentGraph":
        check_has_layers(anatomy)
        check_stream_is_sum(anatomy, split_embeddings)
        n_inputs = 2 if split_embeddings else 1
        mlps = 0 if cfg.attn_only else 1
        sites = _sites(cfg, anatomy, n_inputs)
        n_writers = sum(site.width for site in sites.values()) - 1
        # What a reader sees is always a prefix of the writers.
        seen, owner = [], []
        before = n_inputs
        for _ in range(cfg.n_layers):
            heads = range(before, before + cfg.n_heads)
            seen += [before] * (3 * cfg.n_heads)
            owner += [*heads] * 3
            if mlps:
                seen.append(before if cfg.parallel_attn_mlp else heads.stop)
                owner.append(heads.stop)
            before = heads.stop + mlps
        seen.append(n_writers)
        owner.append(n_writers)
        support = torch.arange(n_writers) < torch.tensor(seen)[:, None]
        ends = Ends(dst=torch.tensor(owner), src=torch.arange(n_writers))
        return cls(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            d_head=cfg.d_head,
            d_model=cfg.d_model,
            attn_only=anatomy.attn_only,
            parallel=anatomy.parallel,
            sites=MappingProxyType(sites),
            edge_support=MappingProxyType({EDGES: support}),
            ends=MappingProxyType({EDGES: ends}),
            split_embeddings=split_embeddings,
        )

    # Where things stand among the writers (columns) and the readers (rows).

    @property
    def n_inputs(self) -> int:
        """Writers before the first block: 1, or 2 with split embeddings."""
        return 2 if self.split_embeddings else 1

    @property
    def n_writers(self) -> int:
        """Columns of the block."""
        return len(self.ends[EDGES].src)

    @property
    def n_readers(self) -> int:
        """Rows of the block."""
        return len(self.ends[EDGES].dst)

    def head_writers(self, layer: int) -> slice:
        """The columns of a layer's heads."""
        start = self.n_inputs + layer * (self.n_heads + self._mlps)
        return slice(start, start + self.n_heads)

    def mlp_writer(self, layer: int) -> slice:
        """The column of a layer's MLP (none if there is no MLP)."""
        start = self.head_writers(layer).stop
        return slice(start, start + self._mlps)

    def head_readers(self, layer: int, letters: str = LETTERS) -> slice:
        """The rows of a layer's heads: all q, then all k, then all v; or one letter's."""
        first, last = LETTERS.index(letters[0]), LETTERS.index(letters[-1])
        start = layer * (3 * self.n_heads + self._mlps)
        return slice(start + first * self.n_heads, start + (last + 1) * self.n_heads)

    def mlp_reader(self, layer: int) -> slice:
        """The row of a layer's MLP (none if there is no MLP)."""
        start = self.head_readers(layer).stop
        return slice(start, start + self._mlps)

    @property
    def logits_reader(self) -> slice:
        """The row of the final residual stream."""
        return slice(self.n_readers - 1, self.n_readers)

    @property
    def _mlps(self) -> int:
        return 0 if self.attn_only else 1

    # Names.

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """Names of the columns."""
        names = ["embed", "pos"] if self.split_embeddings else ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names += [f"m{layer}"] * self._mlps
        return tuple(names)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Names of the rows."""
        names = []
        for layer in range(self.n_layers):
            names += [
                f"a{layer}.h{head}<{letter}>" for letter in LETTERS for head in range(self.n_heads)
            ]
            names += [f"m{layer}"] * self._mlps
        return (*names, "logits")

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.writers)}

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.readers)}

    def node_name(self, site: str, index: int) -> str:
        return (*self.writers, "logits")[self.node_slices[site].start + index]

    def edge_name(self, block: str, dst: int, src: int) -> str:
        return f"{self.writers[src]}->{self.readers[dst]}"

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
                what = "no writer or reader" if arrow else "no '->' between a writer and a reader,"
                hint = did_you_mean(end, list(known))
                raise ValueError(f"{self} has no edge {name!r}: {what} {end!r}.{hint}")
        dst, src = self._rows[reader], self._columns[writer]
        if not bool(self.edge_support[EDGES][dst, src]):
            raise ValueError(
                f"{self} has no edge {name!r}: {reader!r} reads the stream before {writer!r} "
                f"writes to it. It reads {self.writers[0]!r} to {self.writers[self._seen(dst)]!r}."
            )
        return EDGES, dst, src

    def _seen(self, row: int) -> int:
        return int(self.edge_support[EDGES][row].count_nonzero()) - 1

    def ordered_edges(
        self, block: str, mask: Bool[Tensor, "dst src"]
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        dst, src = self._eap_ig_order
        chosen = mask[dst, src]
        return dst[chosen], src[chosen]

    @cached_property
    def _eap_ig_order(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Rows and columns of all edges in EAP-IG's order: by layer, then writer, then reader.

        In its files heads come one after the other, each with q, k and v, and a parallel MLP comes
        after the heads of its layer.
        """
        dst, src = [], []
        for layer in range(self.n_layers):
            heads = torch.arange(self.head_readers(layer).start, self.head_readers(layer).stop)
            heads = heads.reshape(3, self.n_heads).T.flatten()
            mlp = torch.arange(self.mlp_reader(layer).start, self.mlp_reader(layer).stop)
            groups = (torch.cat([heads, mlp]),) if self.parallel else (heads, mlp)
            for rows in groups:
                if len(rows):
                    columns = torch.arange(self._seen(int(rows[0])) + 1)
                    dst.append(rows.repeat(len(columns)))
                    src.append(columns.repeat_interleave(len(rows)))
        dst.append(torch.full((self.n_writers,), self.logits_reader.start))
        src.append(torch.arange(self.n_writers))
        return torch.cat(dst), torch.cat(src)


def _sites(cfg: HookedTransformerConfig, anatomy: Anatomy, n_inputs: int) -> dict[str, Site]:
    first = anatomy.first_stream if n_inputs == 1 else anatomy.embeddings[0]
    sites = [Site("embed", n_inputs, first)]
    for layer in range(cfg.n_layers):
        at = f"blocks.{layer}"
        heads = (anatomy.z(layer), anatomy.attn_stream(layer))
        sites.append(Site(f"{at}.heads", cfg.n_heads, *heads))
        if not cfg.attn_only:
            mlp = (anatomy.mlp_out(layer), anatomy.mlp_stream(layer))
            sites.append(Site(f"{at}.mlp", 1, *mlp))
    sites.append(Site("logits", 1, anatomy.final_stream, anatomy.final_stream))
    return {site.name: site for site in sites}
