"""LookupFree and BinarySpherical against a softmax over all 2^D codes, in float64."""

import math

import pytest
import torch

from tests.helpers.family import rand64 as rand
from vqlab.quantizers import BinarySpherical, LookupFree, lookup_free

CLASSES = [LookupFree, BinarySpherical]


@pytest.mark.parametrize("seed", range(3))
def test_entropy_of_groups_bounds_the_joint_entropy_from_above(seed):
    z = rand(60, 6, seed=seed, scale=2) @ rand(6, 6, seed=seed + 10)  # channels that depend on each other
    joint = LookupFree(6, group_size=6)(z).terms["batch_entropy"]
    three, two, one = (LookupFree(6, group_size=size)(z).terms["batch_entropy"] for size in (3, 2, 1))
    assert joint < min(three, two) <= max(three, two) < one <= 6 * math.log(2)


@pytest.mark.parametrize("cls", CLASSES)
def test_indices_and_group_sizes_of_62_channels(cls, monkeypatch):
    widths, joint = [], lookup_free._joint
    monkeypatch.setattr(lookup_free, "_joint", lambda logits: (widths.append(joint(logits).shape[1]), joint(logits))[1])
    quantizer = cls(62, group_size=5).eval()
    z = torch.cat([rand(9, 62, seed=8), torch.ones(1, 62).double(), -torch.ones(1, 62).double()])
    with torch.no_grad():
        out = quantizer(z)
    assert sorted(set(widths)) == [16, 32]
    assert len(widths) == 13
    assert out.indices[-2:].tolist() == [2**62 - 1, 0]
    assert out.indices.tolist() == [sum(2**i for i in range(62) if row[i] > 0) for row in z]
    assert torch.equal(quantizer.decode(out.indices).sign().double(), z.sign())
    assert all(term.isfinite() for term in out.terms.values())


@pytest.mark.parametrize("cls", CLASSES)
def test_entropies_at_extreme_temperatures(cls):
    z = rand(200, 3, seed=5)
    cold, hot = cls(3, temperature=1e-5)(z), cls(3, temperature=1e6)(z)
    fractions = torch.bincount(cold.indices, minlength=8).double() / 200
    assert cold.terms["sample_entropy"] < 1e-3
    torch.testing.assert_close(cold.terms["batch_entropy"], torch.special.entr(fractions).sum(), rtol=0, atol=1e-3)
    for term in ("sample_entropy", "batch_entropy"):
        assert hot.terms[term].item() == pytest.approx(3 * math.log(2), abs=1e-6)


def test_spherical_codes_have_length_one_and_a_bounded_distance():
    quantizer, z = BinarySpherical(7), rand(40, 7, seed=11, scale=9)
    out = quantizer(z)
    torch.testing.assert_close(out.quantized.norm(dim=1), torch.ones(40).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(quantizer(100 * z).loss, out.loss)
    distance = (quantizer.bound(z) - out.quantized).norm(dim=1)
    assert distance.max() < math.sqrt(2 - 2 / math.sqrt(7))  # for sum |z_i| >= |z|
