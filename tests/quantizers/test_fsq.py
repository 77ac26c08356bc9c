"""FSQ by enumeration of all codes, and against the paper's formula in float64."""

import math

import pytest
import torch

from tests.helpers.family import rand
from vqlab.quantizers.fsq import FSQ

LEVELS = [[8, 5, 5, 5], [2], [3], [2, 2, 2], [7, 2, 4, 3], [16, 15], [8, 8, 8, 6, 5]]


def bound(z, levels):
    """The bounded channels (N, D) in float64, from the paper's formula, channel by channel."""
    columns = []
    for i, count in enumerate(levels):
        half = (count - 1) * 1.001 / 2
        offset = 0.5 if count % 2 == 0 else 0.0
        columns.append(torch.tanh(z[:, i].double() + math.atanh(offset / half)) * half - offset)
    return torch.stack(columns, 1)


def expected_index(z, levels):
    """The index (N,) in float64, and a mask (N,) of rows that are not within rounding of a decision boundary."""
    bounded = bound(z, levels)
    sure = ((bounded - bounded.floor() - 0.5).abs() > 1e-4).all(1)
    index, place = torch.zeros(len(z), dtype=torch.int64), 1
    for i, count in enumerate(levels):
        index += place * (bounded[:, i].round().long() + count // 2)
        place *= count
    return index, sure


@pytest.mark.parametrize("levels", LEVELS)
def test_every_index_has_a_code_of_its_own_and_is_reached(levels):
    fsq, total = FSQ(levels), math.prod(levels)
    codes = fsq.decode(torch.arange(total))
    assert codes.shape == (total, len(levels))
    assert fsq.num_embeddings == total == len(codes.unique(dim=0))
    assert codes.abs().max() <= 1
    for i, count in enumerate(levels):
        assert codes[:, i].unique().tolist() == pytest.approx([(j - count // 2) / (count // 2) for j in range(count)])
    # invert the bound: the input whose bounded value is the middle of the level
    half = torch.tensor([(count - 1) * 1.001 / 2 for count in levels], dtype=torch.float64)
    offset = torch.tensor([0.5 if count % 2 == 0 else 0.0 for count in levels], dtype=torch.float64)
    middle = codes.double() * torch.tensor([count // 2 for count in levels])
    z = ((middle + offset) / half).atanh() - (offset / half).atanh()
    out = fsq(z.float())
    assert torch.equal(out.indices, torch.arange(total))
    assert torch.equal(out.quantized, codes)
    assert torch.equal(fsq.encode(z.float()), torch.arange(total))


@pytest.mark.parametrize("levels", [*LEVELS, [1001], [1002], [1024, 3], [5, 20001]])
def test_saturated_inputs_get_the_outermost_codes(levels):
    fsq = FSQ(levels)
    signs = torch.cartesian_prod(*[torch.tensor([-1e4, 0.0, 1e4])] * len(levels)).reshape(-1, len(levels))
    out = fsq(signs)
    assert out.indices[[0, -1]].tolist() == [0, fsq.num_embeddings - 1]
    assert out.quantized.abs().max() <= 1
    assert torch.equal(fsq.decode(out.indices), out.quantized)


@pytest.mark.parametrize("mode", ["float32", "autocast", "bfloat16"])
@pytest.mark.parametrize("levels", [[8, 8, 8, 6, 5], [8, 5, 5, 5], [64, 64]])
def test_indices_are_exact_at_any_precision(levels, mode):
    fsq = FSQ(levels)
    z = rand(4000, len(levels), seed=1, scale=2.0)
    if mode == "bfloat16":
        z = z.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        out = fsq(z)
    expected, sure = expected_index(z, levels)
    assert sure.float().mean() > 0.98
    assert torch.equal(out.indices[sure], expected[sure])
    assert len(out.indices.unique()) > 256
    assert out.quantized.dtype == z.dtype
    torch.testing.assert_close(out.quantized, fsq.decode(out.indices).to(z.dtype), rtol=0, atol=0)


def test_all_codes_are_used_on_normal_data():
    indices = FSQ([8, 5, 5, 5]).encode(rand(60_000, 4, seed=5, scale=1.0))
    assert len(indices.unique()) > 950
