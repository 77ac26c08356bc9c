"""FSQ by enumeration of all codes, and against the paper's formula in float64."""

import math

import pytest
import torch

from vqlab.quantizers import FSQ

LEVELS = [[8, 5, 5, 5], [2], [3], [2, 2, 2], [7, 2, 4, 3], [16, 15], [8, 8, 8, 6, 5]]


@pytest.mark.parametrize("levels", LEVELS)
def test_each_index_has_a_different_code_and_an_input(levels):
    fsq, total = FSQ(levels), math.prod(levels)
    codes = fsq.decode(torch.arange(total))
    assert codes.shape == (total, len(levels))
    assert fsq.num_embeddings == total == len(codes.unique(dim=0))
    assert codes.abs().max() <= 1
    for i, count in enumerate(levels):
        assert codes[:, i].unique().tolist() == pytest.approx([(j - count // 2) / (count // 2) for j in range(count)])
    # the inputs whose bounded values are the levels
    half = torch.tensor([(count - 1) * 1.001 / 2 for count in levels], dtype=torch.float64)
    offset = torch.tensor([0.5 if count % 2 == 0 else 0.0 for count in levels], dtype=torch.float64)
    middle = codes.double() * torch.tensor([count // 2 for count in levels])
    z = ((middle + offset) / half).atanh() - (offset / half).atanh()
    out = fsq(z.float())
    assert torch.equal(out.indices, torch.arange(total))
    assert torch.equal(out.quantized, codes)


@pytest.mark.parametrize("levels", [*LEVELS, [1001], [1002], [1024, 3], [5, 20001]])
def test_saturated_inputs_get_the_outermost_codes(levels):
    fsq = FSQ(levels)
    signs = torch.cartesian_prod(*[torch.tensor([-1e4, 0.0, 1e4])] * len(levels)).reshape(-1, len(levels))
    out = fsq(signs)
    assert out.indices[[0, -1]].tolist() == [0, fsq.num_embeddings - 1]
    assert out.quantized.abs().max() <= 1
    assert torch.equal(fsq.decode(out.indices), out.quantized)
