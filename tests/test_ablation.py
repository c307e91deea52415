"""Specifications refuse what contradicts itself, and hold nothing of a model."""

from typing import Any

import jaxtyping
import pytest
import torch

from sparse_lens.ablation import (
    Ablation,
    InterchangeAblation,
    MeanAblation,
    ResampleAblation,
    ZeroAblation,
)
from sparse_lens.graphs import ChannelGraph
from sparse_lens.patching import bind, run_circuit
from tests import planted

TOKENS = torch.zeros(2, 3, dtype=torch.long)
LENGTHS = torch.tensor([1, 3])
MEANS = {"blocks.0.attn_in": torch.zeros(4)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": MEANS, "tokens": TOKENS}, "either means .* or tokens .* got both; drop one"),
        ({"lengths": LENGTHS}, "lengths of the rows of tokens=; pass these, too"),
        ({"means": MEANS, "lengths": LENGTHS}, "lengths of the rows of tokens="),
        ({"means": MEANS, "per_position": True}, "per_position says how means are computed"),
        ({"means": TOKENS}, r"means are tensors by site name, got Tensor.* MeanAblation\(tokens="),
        ({"tokens": [[0, 1]]}, r"tokens must be a tensor \[n, pos\], got list; .* prompts.clean"),
    ],
)
def test_what_means_refuse(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for users: the checks of types that run under test would come first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        MeanAblation(**arguments)


@pytest.mark.parametrize(
    ("tokens", "what"), [(TOKENS[0], r"Tensor of shape \(3,\)"), ("text", "str")]
)
def test_what_interchange_refuses(tokens: Any, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=rf"tokens must be a tensor \[n, pos\], got {what}"):
        InterchangeAblation(tokens=tokens)


@pytest.mark.parametrize("given", ["mean", MeanAblation])
def test_what_is_no_ablation_is_refused(given: Any) -> None:
    unchecked = getattr(bind, "__wrapped__", bind)  # types may be checked under test
    problem = planted.problems()["dense, channel, mean"]
    with pytest.raises(ValueError, match=r"not an ablation: pass an object such as MeanAblation"):
        unchecked(problem.model, problem.graph, given)


@pytest.mark.parametrize(
    "ablation",
    [
        ZeroAblation(),
        InterchangeAblation(),
        ResampleAblation(),
        InterchangeAblation(tokens=planted.task().train.corrupted[:1]),
        MeanAblation(tokens=planted.task().train.clean),
        MeanAblation(tokens=planted.task().train.clean, per_position=True),
    ],
)
def test_one_specification_serves_several_models(ablation: Ablation) -> None:
    """Bound to one model and then to another it does what it does when it meets this one first."""
    prompts = planted.task().train[:4]
    problems = planted.problems()
    dense, sparse = (problems[f"{m}, channel, mean"] for m in ("dense", "sparse"))

    def run(problem: planted.Problem) -> torch.Tensor:
        assert isinstance(problem.graph, ChannelGraph)
        with torch.no_grad():
            return run_circuit(problem.model, problem.circuit, prompts, ablation=ablation)

    first = run(sparse)
    run(dense)
    assert torch.equal(run(sparse), first)
