"""Checks that a model has a graph of a kind; they raise with the reason if it does not."""

from sparse_lens.models.anatomy import Anatomy


def check_has_layers(anatomy: Anatomy) -> None:
    """Refuse models without layers."""
    if anatomy.n_layers == 0:
        raise ValueError("a graph needs a model with layers, and this one has n_layers 0.")


def check_stream_is_sum(anatomy: Anatomy, split_embeddings: bool) -> None:
    """Refuse models whose residual stream is not the sum of what is written to it."""
    if anatomy.stream_is_no_sum is not None:
        remedy = "" if anatomy.no_channel_edges else "; use ChannelGraph.from_model(model)"
        raise ValueError(
            f"{anatomy.stream_is_no_sum}, so what is read from the residual stream is not the sum "
            f"of what is written to it, and there is no component graph{remedy}."
        )
    if split_embeddings and anatomy.embeddings_are_one is not None:
        raise ValueError(
            "split_embeddings needs a token and a position embedding that are each added to the "
            f"stream, but {anatomy.embeddings_are_one}; leave split_embeddings=False."
        )


def check_channels_have_edges(anatomy: Anatomy) -> None:
    """Refuse models in which edges between channels are not defined."""
    if anatomy.no_channel_edges:
        remedy = "" if anatomy.stream_is_no_sum else "; use ComponentGraph.from_model(model)"
        raise ValueError(
            "the channel graph has no agreed edges for models with "
            f"{', '.join(anatomy.no_channel_edges)}{remedy}."
        )
