"""AbsTopK against sorting, on every path that it may take."""

import pytest
import torch
from torch import Tensor

from sparse_lens.models import abs_topk
from sparse_lens.models.abs_topk import AbsTopK, abs_topk_mask

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=["few threads", "many threads"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to find the threshold: numpy's partition, and topk as on a GPU."""
    few = request.param == "few threads"
    monkeypatch.setattr(abs_topk, "_THREADS_OF_TOPK", 10**6 if few else 0)
    return request.param


def by_sorting(x: Tensor, k: int) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    kept = torch.zeros_like(rows)
    for row, out in zip(rows, kept, strict=True):
        for index in sorted(range(len(row)), key=lambda i: -abs(float(row[i])))[:k]:
            out[index] = row[index]
    return kept.reshape(x.shape)


def distinct(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Entries of random sign with magnitudes that no dtype rounds to the same."""
    generator = torch.Generator().manual_seed(seed)
    width, rows = shape[-1], torch.Size(shape[:-1]).numel()
    magnitudes = torch.stack([torch.randperm(width, generator=generator) + 1 for _ in range(rows)])
    signs = torch.randint(2, (rows, width), generator=generator) * 2 - 1
    return (magnitudes * signs).reshape(shape).to(dtype)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(16,), (5, 16), (2, 3, 16), (2, 3, 4, 16)])
def test_keeps_the_largest_magnitudes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = distinct(*shape, dtype=dtype)
    for k in (1, 5, 15, 16, 20):
        kept = AbsTopK(k)(x)
        assert kept.dtype == dtype
        assert torch.equal(kept, by_sorting(x, k))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "row",
    [
        [0.0] * 8,
        [1.0] * 8,
        [1.0, -1.0, 1.0, -1.0, 2.0, 0.0, 0.0, 0.0],
        [3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5],
    ],
)
def test_keeps_exactly_k_among_ties(row: list[float], dtype: torch.dtype) -> None:
    x = torch.tensor([row, [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]], dtype=dtype)
    for k in range(1, 8):
        mask = abs_topk_mask(x, k)
        assert mask.sum(-1).tolist() == [k, k]
        least_kept = torch.where(mask, x.abs(), torch.inf).amin(-1)
        most_dropped = torch.where(mask, -torch.inf, x.abs()).amax(-1)
        assert bool((least_kept >= most_dropped).all())


@pytest.mark.usefixtures("path")
def test_nan_and_infinity_are_kept_and_hide_in_no_other_row() -> None:
    # A tie in one row adds an entry, a NaN in the other takes one away: the total is right.
    x = torch.tensor(
        [[torch.nan, 3.0, 2.0, 1.0], [2.0, 2.0, 2.0, 1.0], [-torch.inf, 5.0, 4.0, 3.0]]
    )
    mask = abs_topk_mask(x, 2)
    assert mask.sum(-1).tolist() == [2, 2, 2]
    assert mask[0].tolist() == [True, True, False, False]
    assert mask[2].tolist() == [True, True, False, False]
    kept = AbsTopK(2)(x)
    assert kept[0, 0].isnan()
    assert kept[0, 1:].tolist() == [3.0, 0.0, 0.0]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_magnitudes_of_all_sizes_keep_their_order(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    sizes = (0.0, limits.smallest_normal / 4, limits.tiny, 1e-9, 1.0, limits.max, torch.inf)
    row = torch.tensor(sizes, dtype=dtype) * torch.tensor([-1, 1, -1, 1, -1, 1, -1], dtype=dtype)
    x = torch.stack([row, row.flip(0), -row])
    for k in range(1, 7):
        largest = torch.arange(7) >= 7 - k
        expected = torch.stack([largest, largest.flip(0), largest])
        assert torch.equal(abs_topk_mask(x, k), expected)


@pytest.mark.usefixtures("path")
def test_gradient_passes_through_what_is_kept_alone() -> None:
    x = distinct(4, 10).requires_grad_()
    weights = torch.rand(4, 10) + 1
    (AbsTopK(3)(x) * weights).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(by_sorting(x.detach(), 3) != 0, weights, 0))


@pytest.mark.usefixtures("path")
def test_gradcheck() -> None:
    x = distinct(3, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(AbsTopK(3), (x,))
    assert torch.autograd.gradgradcheck(AbsTopK(3), (x,))


@pytest.mark.usefixtures("path")
def test_views_and_empty_batches() -> None:
    x = distinct(6 * 5 * 4).reshape(6, 5, 4)
    for view in (x.transpose(0, 2), x.permute(1, 2, 0), x[::2, :, 1:], x.expand(2, 6, 5, 4)):
        assert torch.equal(AbsTopK(2)(view), by_sorting(view, 2))
    assert AbsTopK(2)(torch.zeros(0, 3, 8)).shape == (0, 3, 8)


@pytest.mark.usefixtures("path")
def test_without_gradients_and_in_transforms() -> None:
    x, expected = distinct(4, 10), by_sorting(distinct(4, 10), 3)
    keep = AbsTopK(3)
    with torch.no_grad():
        assert torch.equal(keep(x), expected)
    with torch.inference_mode():
        assert torch.equal(keep(distinct(4, 10)), expected)
    assert torch.equal(torch.func.vmap(keep)(x), expected)
    gradient = torch.func.grad(lambda v: (keep(v) ** 2).sum())(x)
    assert torch.equal(gradient, 2 * expected)
    jacobian = torch.func.vmap(torch.func.jacrev(keep))(x)
    assert torch.equal(jacobian, torch.diag_embed((expected != 0).float()))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own use of it
@pytest.mark.usefixtures("path")
def test_forward_mode() -> None:
    x = distinct(4, 10)
    assert torch.equal(torch.func.jvp(AbsTopK(3), (x,), (x,))[1], by_sorting(x, 3))


def test_an_input_is_not_changed() -> None:
    x = distinct(3, 8)
    before = x.clone()
    AbsTopK(2)(x)
    assert torch.equal(x, before)


def test_refuses_to_keep_nothing() -> None:
    with pytest.raises(ValueError, match="at least one entry, got k=0"):
        AbsTopK(0)
