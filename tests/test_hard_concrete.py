"""The distribution of the gates against its definition, in float64 and over a grid of u."""

import math

import pytest
import torch
from torch import Tensor

from sparse_lens.hard_concrete import HardConcrete

GATE = HardConcrete()
LOG_ALPHA = torch.tensor([-8.0, -2.0, -0.5, 0.0, 0.7, 2.0, 8.0])


def gate_at(u: float, log_alpha: float, *, low: float = -0.1, high: float = 1.1) -> float:
    """One gate, as it is defined."""
    s = 1 / (1 + math.exp(-(math.log(u / (1 - u)) + log_alpha) / (2 / 3)))
    return min(1.0, max(0.0, s * (high - low) + low))


def draws(n: int, seed: int = 0) -> Tensor:
    """[n, gates]"""
    generator = torch.Generator().manual_seed(seed)
    return GATE.sample(LOG_ALPHA.repeat(n), generator).view(n, -1)


def test_the_probability_of_a_closed_gate_is_the_share_of_u_that_closes_it():
    n = 4000
    for log_alpha, p_open in zip(
        LOG_ALPHA.tolist(), GATE.probability_open(LOG_ALPHA).tolist(), strict=True
    ):
        closed = sum(gate_at((i + 0.5) / n, log_alpha) == 0 for i in range(n)) / n
        assert 1 - p_open == pytest.approx(closed, abs=1 / n)
        by_hand = 1 / (1 + math.exp(log_alpha - (2 / 3) * math.log(0.1 / 1.1)))
        assert 1 - p_open == pytest.approx(by_hand, abs=1e-6)


def test_gates_are_open_as_often_as_their_probability_says():
    n = 40_000
    shares = (draws(n) > 0).float().mean(0)
    torch.testing.assert_close(shares, GATE.probability_open(LOG_ALPHA), atol=0.01, rtol=0)


def test_a_draw_is_the_definition_at_its_u():
    u = torch.rand(len(LOG_ALPHA), generator=torch.Generator().manual_seed(5))
    drawn = GATE.sample(LOG_ALPHA, torch.Generator().manual_seed(5))
    expected = [gate_at(a, b) for a, b in zip(u.tolist(), LOG_ALPHA.tolist(), strict=True)]
    assert any(0 < value < 1 for value in expected)
    torch.testing.assert_close(drawn, torch.tensor(expected), atol=2e-5, rtol=0)


def test_the_deterministic_gate_is_the_median_of_the_draws():
    medians = draws(40_001).median(0).values
    torch.testing.assert_close(medians, GATE.median(LOG_ALPHA), atol=0.02, rtol=0)
    assert GATE.median(LOG_ALPHA)[[0, -1]].tolist() == [0, 1]


def test_gradients_reach_gates_that_are_half_open_and_no_others():
    log_alpha = LOG_ALPHA.double().requires_grad_()

    def drawn() -> Tensor:
        return GATE.sample(log_alpha, torch.Generator().manual_seed(5))

    gates = drawn()
    inside = (gates > 0) & (gates < 1)
    assert 0 < int(inside.count_nonzero()) < len(gates)
    gates.sum().backward()
    gradient = log_alpha.grad
    assert gradient is not None
    step = 1e-6
    with torch.no_grad():
        log_alpha += step
        above = drawn()
        log_alpha -= 2 * step
        below = drawn()
    torch.testing.assert_close(gradient, (above - below) / (2 * step), atol=1e-6, rtol=1e-4)
    assert bool((gradient[~inside] == 0).all())
    assert bool((gradient[inside] > 0).all())


def test_draws_depend_on_the_generator_alone():
    torch.manual_seed(0)
    first = draws(3, seed=1)
    torch.manual_seed(1)
    assert torch.equal(draws(3, seed=1), first)
    assert not torch.equal(draws(3, seed=2), first)


def test_extreme_log_alphas_stay_finite():
    far = torch.tensor([-1e4, -100.0, 100.0, 1e4])
    drawn = GATE.sample(far, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [0, 0, 1, 1]
    assert GATE.probability_open(far).tolist() == pytest.approx([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"low": 0.0}, "beyond"),
        ({"high": 1.0}, "beyond"),
        ({"eps": 0.5}, "eps must lie"),
    ],
)
def test_constants_without_a_meaning_are_refused(constants, message):
    with pytest.raises(ValueError, match=message):
        HardConcrete(**constants)
