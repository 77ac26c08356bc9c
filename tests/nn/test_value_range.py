"""Value ranges: the affine maps, their inverses, and what is refused."""

import pytest
import torch

from vqlab.errors import UserError
from vqlab.nn.value_range import ValueRange

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
RANGES = [ValueRange("unit"), ValueRange("signed"), ValueRange("standardized", MEAN, STD)]


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("value_range", RANGES, ids=lambda r: r.kind)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (2, 2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decode_undoes_encode(value_range, shape, dtype):
    x = images(*shape).to(dtype)
    encoded = value_range.encode(x)
    assert encoded.dtype == dtype
    torch.testing.assert_close(value_range.decode(encoded), x, rtol=0, atol=1e-6)


def test_the_maps_channel_by_channel():
    x = images(2, 3, 4, 4).double()
    assert torch.equal(ValueRange("unit").encode(x), x)
    torch.testing.assert_close(ValueRange("signed").encode(x), 2 * x - 1)
    standardized = RANGES[2].encode(x)
    for c in range(3):
        torch.testing.assert_close(standardized[:, c], (x[:, c] - MEAN[c]) / STD[c])


@pytest.mark.parametrize("value_range", RANGES, ids=lambda r: r.kind)
def test_decode_clamps(value_range):
    wild = 50 * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    decoded = value_range.decode(wild)
    assert decoded.min() == 0
    assert decoded.max() == 1


@pytest.mark.parametrize(
    ("kind", "mean", "std"),
    [
        ("standardized", (), ()),
        ("standardized", (0.5,), ()),
        ("standardized", (0.5,), (0.5, 0.5)),
        ("standardized", (0.5,), (0.0,)),
        ("standardized", (0.5, 0.5), (0.5, -1.0)),
        ("bytes", (), ()),
    ],
)
def test_what_cannot_be_a_range_is_refused(kind, mean, std):
    with pytest.raises(UserError, match="value_range"):
        ValueRange(kind, mean, std)


def test_lists_make_the_same_range_as_tuples():
    made = ValueRange("standardized", list(MEAN), list(STD))
    assert made == RANGES[2]
    assert hash(made) == hash(RANGES[2])
