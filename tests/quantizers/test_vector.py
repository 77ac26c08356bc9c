"""EMA, initialization, statistics and revival of VectorQuantizer; test_family_gradients has the losses."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.family import as_set, nearest, rand, set_codebook, unit
from vqlab.quantizers.sampling import smallest_k, uniform_by_content
from vqlab.quantizers.vector import KMEANS_ITERATIONS, KMEANS_ROWS_PER_CODE, SAME_KEY, VectorQuantizer


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("init", ["uniform", "data", "kmeans"])
def test_ema_equals_formulas_over_20_batches(init, distance):
    """Appendix A.1 of the paper, with N_k and m_k that start from the counts of the first batch."""
    decay, codes = 0.6, 12  # reached after 12 steps
    quantizer = VectorQuantizer(codes, 5, ema_decay=decay, init=init, distance=distance, revive_after=None)
    quantizer.auto_update = False

    def bounded(step):
        rows = rand(150, 5, seed=step, scale=1 + step % 3).double()
        return unit(rows) if distance == "cosine" else rows

    quantizer(rand(150, 5, seed=0, scale=1))
    book = quantizer.codebook.double()
    if init == "uniform":
        count, total = torch.ones(codes).double(), book.clone()
    else:
        count = torch.bincount(nearest(bounded(0), book), minlength=codes).clamp_min(1).double()
        total = book * count[:, None]
    torch.testing.assert_close(quantizer.ema_counts.double(), count, rtol=0, atol=0)
    torch.testing.assert_close(quantizer.ema_sums.double(), total, rtol=1e-6, atol=1e-6)

    for step in range(20):
        z = rand(150, 5, seed=step, scale=1 + step % 3)
        rows = bounded(step)
        index = nearest(rows, book)
        out = quantizer(z)
        assert torch.equal(out.indices, index)
        assert quantizer.update(out.stats) == []
        now = min(decay, (2 + step) / (11 + step))  # (1 + t) / (10 + t) at step t = 1, 2, ...
        for k in range(codes):
            members = rows[index == k]
            count[k] = now * count[k] + (1 - now) * len(members)
            total[k] = now * total[k] + (1 - now) * members.sum(0)
        book = total / count[:, None]
        book = unit(book) if distance == "cosine" else book
        torch.testing.assert_close(quantizer.ema_counts.double(), count, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(quantizer.ema_sums.double(), total, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(quantizer.codebook.double(), book, rtol=1e-5, atol=2e-6)
    assert quantizer.steps == 20


@pytest.mark.parametrize("rule", ["ema", "loss"])
def test_unused_codes_are_constant_without_revival(rule):
    quantizer = VectorQuantizer(10, 3, codebook_update=rule, init="uniform", revive_after=None, ema_decay=0.9)
    far = rand(10, 3, seed=1, scale=2)
    far[5:] += 100
    set_codebook(quantizer, far)
    for step in range(200):
        z = rand(20, 3, seed=step)
        assert quantizer(z).indices.max() < 5
    assert torch.equal(quantizer.codebook[5:], far[5:])
    if rule == "ema":
        assert not torch.equal(quantizer.codebook[:5], far[:5])
        assert quantizer(far[5:]).indices.tolist() == [5, 6, 7, 8, 9]
        torch.testing.assert_close(quantizer.codebook[5:], far[5:])


@pytest.mark.parametrize("rule", ["ema", "loss"])
def test_data_init_uses_distinct_rows_of_the_first_batch(rule):
    quantizer = VectorQuantizer(30, 4, codebook_update=rule, init="data")
    quantizer.auto_update = False
    z = rand(100, 4, seed=3)
    quantizer(z)
    assert bool(quantizer.first_batch.seen)
    assert len(quantizer.codebook.unique(dim=0)) == 30
    assert set(as_set(quantizer.codebook)) <= set(as_set(z))
    again = quantizer.codebook.detach().clone()
    quantizer(rand(100, 4, seed=4))
    assert torch.equal(quantizer.codebook, again)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("total", [100, 900])
def test_kmeans_init_equals_lloyd_iterations(distance, total):
    codes = 10
    quantizer = VectorQuantizer(codes, 4, init="kmeans", distance=distance, seed=5)
    quantizer.auto_update = False
    z = rand(total, 4, seed=6)
    quantizer(z)
    rows = F.normalize(z, dim=1) if distance == "cosine" else z
    num = min(total, KMEANS_ROWS_PER_CODE * codes)
    keys = uniform_by_content(rows, 5, (rows.double().sum(0) / total).float())
    sample = smallest_k(rows, keys, num, SAME_KEY)[0].double()
    centers = sample[:codes].clone()
    for _ in range(KMEANS_ITERATIONS):
        index = nearest(sample, centers)
        for k in range(codes):
            if (index == k).any():
                centers[k] = sample[index == k].mean(0)
        centers = unit(centers) if distance == "cosine" else centers
    torch.testing.assert_close(quantizer.codebook.double(), centers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("init", ["kmeans", "data"])
@pytest.mark.parametrize("rule", ["ema", "loss"])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_init_with_fewer_vectors_than_codes(init, rule, rows):
    quantizer = VectorQuantizer(16, 4, codebook_update=rule, init=init, revive_after=2)
    z = rand(rows, 4, seed=rows, scale=5)
    out = quantizer(z)
    torch.testing.assert_close(out.quantized.detach(), z, rtol=1e-6, atol=1e-6)
    assert len(out.indices.unique()) == rows
    assert quantizer.state_dict()["codebook"].isfinite().all()
    for step in range(15):
        quantizer(rand(40, 4, seed=step))
    assert len(quantizer.eval()(rand(2000, 4, seed=99)).indices.unique()) >= 14


def test_statistics_are_counts_and_sums_of_finite_rows():
    whole, finite = (VectorQuantizer(12, 4, init="uniform", revive_after=1) for _ in range(2))
    whole.auto_update = finite.auto_update = False
    z, index = rand(40, 4, seed=1), torch.arange(40)
    whole.sample_index, finite.sample_index = index, index[1:]
    out, good = finite(z[1:]), finite(z[1:]).stats
    for k in range(12):
        members = z[1:][out.indices == k]
        assert good.counts[k] == len(members)
        torch.testing.assert_close(good.sums[k], members.sum(0), rtol=1e-5, atol=1e-5)
    z[0] = float("inf")
    stats = whole(z).stats
    torch.testing.assert_close((stats.counts, stats.sums, stats.keys), (good.counts, good.sums, good.keys))
    assert torch.equal(stats.candidates, good.candidates)


@pytest.mark.parametrize("rule", ["ema", "loss"])
@pytest.mark.parametrize(("revive_after", "steps"), [(10, 1), (10.2, 2), (50, 5)])  # of 8 codes and 80 vectors a step
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_codes_are_revived_after_vectors_without_an_assignment(rule, revive_after, steps, distance):
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

    # the next step updates a revived code with the usual formula, from N_k = 1
    out = quantizer(z)
    quantizer.update(out.stats)
    rows = (F.normalize(z, dim=1) if distance == "cosine" else z).double()
    for k in range(2, 8):
        members = rows[out.indices == k]
        assert len(members) >= 1
        expected = new[k].double()
        if rule == "ema":
            decay = (2 + steps) / (11 + steps)  # still below 0.9
            expected = (decay * expected + (1 - decay) * members.sum(0)) / (decay + (1 - decay) * len(members))
            expected = F.normalize(expected, dim=0) if distance == "cosine" else expected
        torch.testing.assert_close(quantizer.codebook[k].detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["ema", "loss"])
def test_revival_prevents_codebook_collapse(rule):
    """Without revival 64 codes near 0 and data around 10 collapse to a few codes."""
    used = {}
    for revive_after in (16, None):
        quantizer = VectorQuantizer(64, 8, codebook_update=rule, init="uniform", revive_after=revive_after)
        for step in range(40):
            quantizer(10 + rand(512, 8, seed=step))
        used[revive_after] = len(quantizer.eval()(10 + rand(4096, 8, seed=99)).indices.unique()) / 64
    assert used[16] > 0.95
    assert used[None] < 0.2


def test_candidates_are_drawn_in_proportion_to_squared_distance():
    """Of vectors at the distances 0, 1 and 3, the third in 9 of 10 cases and the first never."""
    rows, drawn = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]]), []
    for seed in range(600):
        quantizer = VectorQuantizer(1, 2, init="uniform", revive_after=100, seed=seed)
        set_codebook(quantizer, torch.zeros(1, 2))
        quantizer.auto_update = False
        drawn.append(quantizer(rows + 1e-3 * rand(3, 2, seed=seed)).stats.candidates[0].norm())
    drawn = torch.stack(drawn)
    assert drawn.min() > 0.9
    assert (drawn > 2).float().mean().item() == pytest.approx(0.9, abs=0.06)


def test_revived_codes_without_an_assignment_stay():
    quantizer = VectorQuantizer(4, 2, init="uniform", revive_after=22.5, ema_decay=0.9)  # three batches of 30
    set_codebook(quantizer, torch.tensor([[0.0, 0.0], [50.0, 50.0], [51.0, 50.0], [52.0, 50.0]]))
    for step in range(3):
        quantizer(rand(30, 2, seed=step))
    new = quantizer.codebook.clone()
    assert new.abs().max() < 10
    quantizer(torch.full((1, 2), 40.0) + new[:1])  # one far vector
    assert (quantizer.codebook == new).all(1).sum() >= 3


def test_revival_with_few_vectors_and_new_candidates_at_each_step():
    quantizer = VectorQuantizer(20, 2, init="uniform", revive_after=0.25)
    set_codebook(quantizer, torch.cat([torch.zeros(1, 2), 100 + rand(19, 2, seed=1)]))
    assert quantizer(rand(5, 2, seed=2)).stats.keys.isfinite().sum() == 5
    assert (quantizer.codebook.abs() < 10).all(1).tolist() == [True] * 6 + [False] * 14
    assert as_set(quantizer.codebook[1:6]) == as_set(rand(5, 2, seed=2))
    quantizer, z = VectorQuantizer(16, 4, init="uniform"), rand(2000, 4, seed=1)
    draws = [set(as_set(quantizer(z).stats.candidates)) for _ in range(4)]
    assert all(len(a & b) < 4 for a, b in itertools.combinations(draws, 2))


def test_start_from_many_batches_weighs_as_many_steps():
    batches = 20
    quantizer = VectorQuantizer(4, 3, ema_decay=0.999, revive_after=None)
    quantizer.initialize(rand(batches * 50, 3, seed=0), batches)
    start, counts = quantizer.codebook.clone(), quantizer.ema_counts.clone()
    torch.testing.assert_close(counts.sum(), torch.tensor(50.0))
    out = quantizer(rand(50, 3, seed=1))
    chosen = torch.nn.functional.one_hot(out.indices, 4).float()
    sums, weight = chosen.T @ rand(50, 3, seed=1), 1 / batches
    expected = (1 - weight) * start * counts[:, None] + weight * sums
    expected /= ((1 - weight) * counts + weight * chosen.sum(0))[:, None]
    torch.testing.assert_close(quantizer.codebook, expected, rtol=1e-3, atol=1e-3)
    assert (quantizer.codebook - start).abs().max() > 1e-3
