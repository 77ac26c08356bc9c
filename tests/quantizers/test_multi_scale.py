"""Scales, statistics and initialization of MultiScaleQuantizer; test_family_gradients has the formulas."""

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.family import rand64 as rand
from tests.helpers.resampling import down, up
from vqlab.quantizers import MultiScaleQuantizer, VectorQuantizer

K, D = 12, 3


def make(scales, num_phi=4, rule="loss"):
    """Build a float64 quantizer with a fixed codebook."""
    part = VectorQuantizer(K, D, 0.3, rule, init="uniform", revive_after=None)
    quantizer = MultiScaleQuantizer(part, scales, num_phi).double()
    part.codebook.data.copy_(rand(K, D, seed=100))
    quantizer.auto_update = False
    return quantizer


@pytest.mark.parametrize(
    ("num_scales", "num_phi", "used"),
    [(6, 4, [0, 1, 1, 2, 2, 3]), (5, 1, [0] * 5), (3, 9, [0, 1, 2]), (10, 2, [0] * 5 + [1] * 5), (1, 4, [0])],
)
def test_phi_of_each_scale(num_scales, num_phi, used):
    quantizer, calls = make(list(range(1, num_scales + 1)), num_phi), []
    assert len(quantizer.phi) == max(used) + 1
    for number, phi in enumerate(quantizer.phi):
        phi.register_forward_hook(lambda *_, number=number: calls.append(number))
    quantizer(rand(1, D, num_scales, num_scales, seed=2))
    assert calls == used


def test_statistics_are_sums_over_all_scales():
    quantizer = make([1, 2, 4], rule="ema")
    f = rand(5, D, 4, 4, seed=8)
    out = quantizer(f)
    assert torch.equal(out.stats.counts, torch.bincount(out.indices.flatten(), minlength=K).double())
    assert out.stats.counts.sum() == 5 * 21
    before = [torch.zeros_like(f), quantizer.decode(out.indices[:, :1]), quantizer.decode(out.indices[:, :5])]
    rests = [down(f - f_hat.detach(), size).flatten(2) for f_hat, size in zip(before, [1, 2, 4], strict=True)]
    rows = torch.cat(rests, 2).movedim(1, 2).reshape(-1, D)
    expected = torch.zeros(K, D).double().index_add_(0, out.indices.flatten(), rows)
    torch.testing.assert_close(out.stats.sums, expected)
    quantizer.update(out.stats)
    assert quantizer.quantizer.steps == 1


def test_codebook_is_initialized_from_a_laplacian_pyramid(monkeypatch):
    quantizer, seen = make([1, 2, 4]), []
    quantizer.quantizer.first_batch.awaited = True
    monkeypatch.setattr(quantizer.quantizer, "initialize", seen.append)
    f = rand(5, D, 4, 4, seed=9)
    quantizer(f)
    rest, bands = f, []
    for size in [1, 2, 4]:
        bands.append(down(rest, size))
        rest = rest - up(bands[-1], 4)
    rows = torch.cat([band.movedim(1, -1).reshape(-1, D) for band in bands])
    torch.testing.assert_close(seen[0], rows)
    seen.clear()
    quantizer.eval()(f)
    assert not seen


@pytest.mark.parametrize("init", ["kmeans", "data"])
def test_finest_scale_uses_most_codes_after_the_first_batch(init):
    quantizer = MultiScaleQuantizer(VectorQuantizer(64, 4, init=init), [1, 2, 4, 8])
    z = F.interpolate(rand(16, 4, 4, 4, seed=10).float(), size=(8, 8), mode="bicubic")
    assert len(quantizer(z + 0.3 * rand(16, 4, 8, 8, seed=11).float()).indices[:, 21:].unique()) > 48
