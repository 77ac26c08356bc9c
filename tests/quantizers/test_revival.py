"""Dead-code revival of VectorQuantizer."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.family import as_set, rand, set_codebook
from vqlab.quantizers.vector import VectorQuantizer


@pytest.mark.parametrize("rule", ["ema", "loss"])
@pytest.mark.parametrize(("revive_after", "steps"), [(10, 1), (10.2, 2), (50, 5)])  # of 8 codes and 80 vectors a step
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_a_code_is_revived_after_that_many_vectors_without_an_assignment(rule, revive_after, steps, distance):
    quantizer = VectorQuantizer(
        8, 6, codebook_update=rule, distance=distance, init="uniform", revive_after=revive_after, ema_decay=0.9
    )
    quantizer.auto_update = False
    codes = torch.cat([torch.eye(6)[:2], -torch.ones(6, 6) + 0.1 * rand(6, 6, seed=1)])
    codes = F.normalize(codes, dim=1)
    set_codebook(quantizer, codes)

    def batch(step):
        z = 0.3 * rand(40, 6, seed=step).abs() + torch.eye(6)[step % 2]
        return F.normalize(z, dim=1) if distance == "cosine" else z

    alive = torch.tensor([True] * 2 + [False] * 6)
    # both live codes are hit by each batch, so that they never age
    for step in range(steps):
        z = torch.cat([batch(step), batch(step + 1)])
        out = quantizer(z)
        assert torch.equal(out.indices.bincount(minlength=8) > 0, alive)
        before = quantizer.codebook.detach().clone()
        [(codebook, revived)] = quantizer.update(out.stats)
        assert codebook is quantizer.codebook
        if step < steps - 1:
            assert not revived.any()
            assert torch.equal(quantizer.codebook[~alive], codes[~alive])
            assert torch.equal(quantizer.age, (step + 1) * 80 * (~alive).long())
    assert torch.equal(revived, ~alive)
    assert not quantizer.age.any()
    new = quantizer.codebook.detach().clone()
    assert set(as_set(new[~alive])) <= set(as_set(F.normalize(z, dim=1) if distance == "cosine" else z))
    assert len(new[~alive].unique(dim=0)) == 6
    if rule == "loss":
        assert torch.equal(new[alive], before[alive])

    # the next step moves a revived code by the usual formula, from one vector's worth of mass, and not back
    out = quantizer(z)
    quantizer.update(out.stats)
    rows = (F.normalize(z, dim=1) if distance == "cosine" else z).double()
    for k in range(2, 8):
        members = rows[out.indices == k]
        assert len(members) >= 1  # it stands on one of them
        expected = new[k].double()
        if rule == "ema":
            decay = (2 + steps) / (11 + steps)  # still below 0.9
            expected = (decay * expected + (1 - decay) * members.sum(0)) / (decay + (1 - decay) * len(members))
            expected = F.normalize(expected, dim=0) if distance == "cosine" else expected
        torch.testing.assert_close(quantizer.codebook[k].detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_revived_code_that_is_not_hit_stays():
    quantizer = VectorQuantizer(4, 2, init="uniform", revive_after=22.5, ema_decay=0.9)  # three batches of 30
    set_codebook(quantizer, torch.tensor([[0.0, 0.0], [50.0, 50.0], [51.0, 50.0], [52.0, 50.0]]))
    for step in range(3):
        quantizer(rand(30, 2, seed=step))
    new = quantizer.codebook.clone()
    assert new.abs().max() < 10
    quantizer(torch.full((1, 2), 40.0) + new[:1])  # one far vector: at most one code is hit
    assert (quantizer.codebook == new).all(1).sum() >= 3


def test_each_step_draws_other_candidates():
    quantizer = VectorQuantizer(16, 4, init="uniform")
    z = rand(2000, 4, seed=1)
    draws = [set(as_set(quantizer(z).stats.candidates)) for _ in range(4)]
    assert all(len(a & b) < 4 for a, b in itertools.combinations(draws, 2))
    other = VectorQuantizer(16, 4, init="uniform", seed=100)
    assert len(draws[0] & set(as_set(other(z).stats.candidates))) < 4


def test_more_dead_codes_than_vectors():
    quantizer = VectorQuantizer(20, 2, init="uniform", revive_after=0.25)
    set_codebook(quantizer, torch.cat([torch.zeros(1, 2), 100 + rand(19, 2, seed=1)]))
    out = quantizer(rand(5, 2, seed=2))
    assert (quantizer.age > 0).sum() == 19 - 5
    moved = (quantizer.codebook.abs() < 10).all(1)
    assert moved.tolist() == [True] * 6 + [False] * 14
    assert as_set(quantizer.codebook[1:6]) == as_set(rand(5, 2, seed=2))
    assert out.stats.keys.isfinite().sum() == 5


@pytest.mark.parametrize("rule", ["ema", "loss"])
def test_revival_repairs_a_collapsed_initialisation(rule):
    """64 codes near 0 and data around 10: a few codes take all vectors, unless dead ones are revived."""
    used = {}
    for revive_after in (16, None):
        quantizer = VectorQuantizer(64, 8, codebook_update=rule, init="uniform", revive_after=revive_after)
        for step in range(40):
            quantizer(10 + rand(512, 8, seed=step))
        used[revive_after] = len(quantizer.eval()(10 + rand(4096, 8, seed=99)).indices.unique()) / 64
    assert used[16] > 0.95
    assert used[None] < 0.2


def test_candidates_are_drawn_by_their_squared_distance():
    """As k-means++ draws: of a vector at distance 1 and one at distance 3, the far one in 9 of 10 cases."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    far = 0
    for seed in range(600):
        quantizer = VectorQuantizer(1, 2, init="uniform", revive_after=100, seed=seed)
        set_codebook(quantizer, torch.zeros(1, 2))
        quantizer.auto_update = False
        far += int(quantizer(rows + 1e-3 * rand(2, 2, seed=seed)).stats.candidates[0].norm() > 2)
    assert far / 600 == pytest.approx(0.9, abs=0.06), "0.75 by the distance itself"
