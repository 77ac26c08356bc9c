"""Value ranges: the affine maps and their inverses."""

import pytest
import torch

from vqlab.nn import ValueRange

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
RANGES = [ValueRange("unit"), ValueRange("signed"), ValueRange("standardized", MEAN, STD)]


@pytest.mark.parametrize("value_range", RANGES, ids=lambda r: r.kind)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (2, 2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decode_undoes_encode(value_range, shape, dtype):
    x = torch.rand(shape, dtype=dtype)
    encoded = value_range.encode(x)
    assert encoded.dtype == dtype
    torch.testing.assert_close(value_range.decode(encoded), x, rtol=0, atol=1e-6)


def test_encode_equals_its_formula_per_channel():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(ValueRange("unit").encode(x), x)
    torch.testing.assert_close(ValueRange("signed").encode(x), 2 * x - 1)
    standardized = RANGES[2].encode(x)
    for c in range(3):
        torch.testing.assert_close(standardized[:, c], (x[:, c] - MEAN[c]) / STD[c])


def test_lists_and_tuples_give_equal_ranges():
    made = ValueRange("standardized", list(MEAN), list(STD))
    assert made == RANGES[2]
    assert hash(made) == hash(RANGES[2])
