"""LookupFree and BinarySpherical against a softmax over all 2^D codes, in float64."""

import math

import pytest
import torch

from tests.helpers.family import rand64 as rand
from vqlab.quantizers import lookup_free
from vqlab.quantizers.lookup_free import BinarySpherical, LookupFree

CLASSES = [LookupFree, BinarySpherical]


@pytest.mark.parametrize("seed", range(3))
def test_groups_bound_the_joint_entropy_from_above(seed):
    z = rand(60, 6, seed=seed, scale=2) @ rand(6, 6, seed=seed + 10)  # channels that depend on each other
    joint = LookupFree(6, group_size=6)(z).terms["batch_entropy"]
    bounds = [LookupFree(6, group_size=size)(z).terms["batch_entropy"] for size in (3, 2, 1)]
    assert joint < bounds[0] < bounds[2]
    assert joint < bounds[1] < bounds[2]
    assert bounds[2] <= 6 * math.log(2)


@pytest.mark.parametrize("cls", CLASSES)
def test_62_channels_and_the_memory_of_their_groups(cls, monkeypatch):
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
