"""The channel graph: single channels joined by nonzero weights (Gao et al. 2025, 2511.13653)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.graphs.base import Block, Graph, Site, compact, did_you_mean
from sparse_lens.graphs.checks import check_channels_have_edges, check_has_layers
from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.models.anatomy.hooked_transformer import hooked_transformer_anatomy

_ATTENTION = (("attn_in", "q"), ("attn_in", "k"), ("attn_in", "v"), ("v", "attn_out"))
_MLP = (("mlp_in", "mlp_post"), ("mlp_post", "mlp_out"))


@dataclass(frozen=True, eq=False)
class ChannelBlock(Block):
    """The edges from one site to another: the nonzero entries of a weight matrix [dst, src]."""

    source: Site
    destination: Site

    @property
    def through_attention(self) -> bool:
        """Whether the weights act on v as mixed by the attention pattern: from v to attn_out."""
        return self.source.role == "v"


@dataclass(frozen=True, eq=False, repr=False)
class ChannelGraph(Graph):
    """Channels of eight sites per layer and of the final stream, joined by nonzero weights.

    A block such as `blocks.0.mlp_in->blocks.0.mlp_post` holds one weight matrix as [dst, src].
    Channel `head * d_head + i` of q, k and v is entry i of that head. The last `d_pos` channels of
    `attn_in` and `mlp_in` are position embeddings that are concatenated to the normed stream.

    If a norm with a gain precedes the projections, the nodes of `attn_in` and `mlp_in` are the
    channels before the gain, and the gain is part of their edges' weights (in sparse GPTs, the
    nodes are the channels after it).
    """

    kind: ClassVar[str] = "channel"

    blocks: Mapping[str, ChannelBlock]

    d_in: int
    """Number of channels of `attn_in` and `mlp_in`: d_model + d_pos."""

    @classmethod
    def from_model(cls, model: torch.nn.Module, *, final_resid: bool = True) -> "ChannelGraph":
        """The graph of a sparse GPT or of a plain HookedTransformer.

        Args:
            final_resid: whether the channels of the residual stream before the last norm are nodes
                (they are in the released data; the paper's own list leaves them out).

        Raises:
            ValueError: for a model in which edges between channels are not defined, naming the
                reason.
        """
        anatomy, model = anatomy_of(model), cast(HookedTransformer, model)
        cfg = model.cfg
        check_has_layers(anatomy)
        check_channels_have_edges(anatomy)
        attn: Any = model.blocks[0].attn
        d_in = attn.W_Q.shape[1]
        sites = _sites(cfg, anatomy, d_in, final_resid)
        with torch.no_grad():
            blocks = _blocks(model, sites)
        return cls(
            n_layers=cfg.n_layers,
            n_heads=cfg.n_heads,
            d_head=cfg.d_head,
            d_model=cfg.d_model,
            attn_only=anatomy.attn_only,
            parallel=anatomy.parallel,
            sites=MappingProxyType(sites),
            blocks=MappingProxyType(blocks),
            d_in=d_in,
        )

    @classmethod
    def count_nodes(
        cls, cfg: HookedTransformerConfig, *, d_pos: int = 0, final_resid: bool = True
    ) -> int:
        """Number of nodes of the graph of a model with this configuration, without its weights.

        Args:
            d_pos: number of channels of concatenated position embeddings.
        """
        anatomy = hooked_transformer_anatomy(cfg)
        sites = _sites(cfg, anatomy, cfg.d_model + d_pos, final_resid)
        return sum(site.width for site in sites.values())

    @property
    def has_final_resid(self) -> bool:
        """Whether the channels of the residual stream before the last norm are nodes."""
        return "final_resid" in self.sites

    @property
    def d_pos(self) -> int:
        """Number of channels of concatenated position embeddings in `attn_in` and `mlp_in`."""
        return self.d_in - self.d_model

    def edge_weights(self, model: HookedTransformer) -> dict[str, Float[Tensor, "dst src"]]:
        """By block: the factor by which each edge multiplies its source, 0 where there is no edge.

        Differentiable, on the model's device; views of the parameters where possible.

        Raises:
            ValueError: when the model's shapes are not the graph's.
        """
        weights = {_block_name(*ends): weight for *ends, weight in _weights(model)}
        for name, shape in self.block_shapes.items():
            model_shape = tuple(weights[name].shape) if name in weights else None
            if model_shape != shape:
                raise ValueError(
                    f"{self} is the graph of another model: block {name!r} has shape {shape} in "
                    f"the graph and {model_shape} in the model."
                )
        return {name: weights[name] for name in self.blocks}

    def site(self, layer: int, role: str) -> Site:
        """A site of a layer by its role, such as `attn_in`."""
        return self.sites[f"blocks.{layer}.{role}"]

    def block(self, layer: int, source: str, destination: str) -> ChannelBlock:
        """The block of a layer between two of its sites, given by their roles."""
        return self.blocks[_block_name(f"blocks.{layer}.{source}", f"blocks.{layer}.{destination}")]

    @property
    def written_to_stream(self) -> Iterator[ChannelBlock]:
        """The blocks into `attn_out` and `mlp_out`, which add to the stream, in forward order."""
        return (b for b in self.blocks.values() if b.destination.role in ("attn_out", "mlp_out"))

    # Names.

    def node_name(self, site: str, index: int) -> str:
        return f"{site}:{index}"

    def edge_name(self, block: str, dst: int, src: int) -> str:
        ends = self.blocks[block]
        return f"{ends.source.name}:{src}->{ends.destination.name}:{dst}"

    def parse_node(self, name: str) -> tuple[str, int]:
        site, colon, index = name.rpartition(":")
        if not colon or site not in self.sites:
            hint = did_you_mean(site or name, list(self.sites))
            raise ValueError(
                f"{self} has no node {name!r}: a name is site:index, as in "
                f"'{next(iter(self.sites))}:0', and there is no site {site or name!r}.{hint}"
            )
        width = self.sites[site].width
        if not index.isdecimal() or int(index) >= width or str(int(index)) != index:
            raise ValueError(
                f"{self} has no node {name!r}: channels of {site!r} are numbered 0 to {width - 1}."
            )
        return site, int(index)

    def parse_edge(self, name: str) -> tuple[str, int, int]:
        source, arrow, destination = name.partition("->")
        if not arrow:
            raise ValueError(
                f"{self} has no edge {name!r}: a name is source->destination, as in "
                f"'blocks.0.attn_in:0->blocks.0.q:0'."
            )
        (src_site, src), (dst_site, dst) = self.parse_node(source), self.parse_node(destination)
        block = _block_name(src_site, dst_site)
        if block not in self.blocks:
            hint = did_you_mean(block, list(self.blocks))
            raise ValueError(
                f"{self} has no edge {name!r}: no weights lead from {src_site!r} to {dst_site!r} "
                f"(links through the residual stream are not edges).{hint}"
            )
        if not bool(self.blocks[block].support[dst, src]):
            raise ValueError(
                f"{self} has no edge {name!r}: that weight is zero.{self._nearest(block, dst, src)}"
            )
        return block, dst, src

    def _nearest(self, block: str, dst: int, src: int) -> str:
        """A hint at edges that share an end with a pair that is no edge, for an error message."""
        support = self.blocks[block].support
        same_dst = [(dst, column) for column in support[dst].nonzero().flatten().tolist()]
        same_src = [(row, src) for row in support[:, src].nonzero().flatten().tolist()]
        edges = sorted(same_dst + same_src, key=lambda e: abs(e[0] - dst) + abs(e[1] - src))
        names = [repr(self.edge_name(block, *edge)) for edge in edges[:3]]
        return f" Nonzero weights with the same end: {', '.join(names)}." if names else ""


def _block_name(source: str, destination: str) -> str:
    return f"{source}->{destination}"


def _blocks(model: HookedTransformer, sites: Mapping[str, Site]) -> dict[str, ChannelBlock]:
    """The nonzero weights of a model, in forward order."""
    widths = [site.width for site in sites.values()]
    nodes = dict(zip(sites, torch.arange(sum(widths)).split(widths), strict=True))
    return {
        name: ChannelBlock(
            name=name,
            support=compact(weight != 0),
            dst_nodes=nodes[destination],
            src_nodes=nodes[source],
            source=sites[source],
            destination=sites[destination],
        )
        for source, destination, weight in _weights(model)
        for name in [_block_name(source, destination)]
    }


def _weights(model: HookedTransformer) -> Iterator[tuple[str, str, Float[Tensor, "dst src"]]]:
    """Source, destination and matrix of each block, in forward order."""
    anatomy = anatomy_of(model)
    read_weight = _with_gain if anatomy.channels_precede_gain else (lambda weight, _: weight)
    for layer, block in enumerate(model.blocks):
        attn: Any = block.attn
        matrices = {
            letter: read_weight(rearrange(w, "head d_in d_head -> (head d_head) d_in"), block.ln1)
            for letter, w in (("q", attn.W_Q), ("k", attn.W_K), ("v", attn.W_V))
        }
        matrices["attn_out"] = rearrange(attn.W_O, "head d_head d_model -> d_model (head d_head)")
        pairs = _ATTENTION
        if not anatomy.attn_only:
            mlp: Any = block.mlp
            pairs += _MLP
            matrices["mlp_post"] = read_weight(mlp.W_in.T, block.ln2)
            matrices["mlp_out"] = mlp.W_out.T
        for source, destination in pairs:
            prefix = f"blocks.{layer}"
            yield f"{prefix}.{source}", f"{prefix}.{destination}", matrices[destination]


def _with_gain(weight: Float[Tensor, "dst src"], norm: Any) -> Float[Tensor, "dst src"]:
    """W diag(gain): the weight on channels before the norm's gain, if it has one."""
    gain = getattr(norm, "w", None)  # [d_model]
    return weight if gain is None else weight * gain


def _sites(
    cfg: HookedTransformerConfig, anatomy: Anatomy, d_in: int, final_resid: bool
) -> dict[str, Site]:
    d_heads = cfg.n_heads * cfg.d_head
    sites = []
    for layer in range(cfg.n_layers):
        prefix = f"blocks.{layer}"
        sites.append(Site(f"{prefix}.attn_in", d_in, anatomy.attn_read(layer)))
        for letter in "qkv":
            hook_names = (anatomy.attended(layer, letter), anatomy.projected(layer, letter))
            sites.append(Site(f"{prefix}.{letter}", d_heads, *hook_names, per_head=True))
        hook_names = (anatomy.attn_out(layer), anatomy.attn_sum(layer))
        sites.append(Site(f"{prefix}.attn_out", cfg.d_model, *hook_names))
        if anatomy.attn_only:
            continue
        sites.append(Site(f"{prefix}.mlp_in", d_in, anatomy.mlp_read(layer)))
        hook_names = (anatomy.neurons(layer), anatomy.neurons_pre(layer))
        sites.append(Site(f"{prefix}.mlp_post", cfg.d_mlp or 0, *hook_names))
        hook_names = (anatomy.mlp_out(layer), anatomy.mlp_sum(layer))
        sites.append(Site(f"{prefix}.mlp_out", cfg.d_model, *hook_names))
    if final_resid:
        sites.append(Site("final_resid", cfg.d_model, anatomy.final_stream))
    return {site.name: site for site in sites}
