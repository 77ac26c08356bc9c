"""Random subsets of vectors and code statistics are equal for every split of the batch."""

import functools
import itertools
import operator

import pytest
import torch
from scipy.stats import kstest

from tests.helpers.family import as_set, rand
from vqlab.quantizers.base import CodeStats
from vqlab.quantizers.sampling import smallest_k, uniform_by_content, uniform_by_sample

ORIGIN = torch.zeros(())


def draw(rows, num, seed, center):
    return smallest_k(rows, uniform_by_content(rows, seed, center), num)


def merge(parts, num, seed):
    """Choose from each part, then from the chosen rows."""
    rows, keys = zip(*[draw(part, num, seed, ORIGIN) for part in parts], strict=True)
    return smallest_k(torch.cat(rows), torch.cat(keys), num)


@pytest.mark.parametrize("dim", [1, 2, 64])
@pytest.mark.parametrize(("total", "num"), [(100, 10), (100, 100), (5, 20), (1, 1), (333, 40)])
@pytest.mark.parametrize("seed", range(2))
def test_choice_from_parts_equals_choice_from_the_whole(dim, total, num, seed):
    rows = rand(total, dim, seed=seed)
    whole, keys = draw(rows, num, seed, ORIGIN)
    assert whole.shape == (num, dim)
    assert torch.equal(keys[:total], uniform_by_content(rows, seed, ORIGIN).sort().values[:num])
    assert keys.isfinite().sum() == min(num, total)
    assert whole[total:].eq(0).all()
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    for parts in (rows[order].split(max(1, total // 3)), [rows[0::2], rows[1::2]], rows.flip(0).split(7)):
        merged, merged_keys = merge(parts, num, seed)
        assert as_set(merged) == as_set(whole)
        torch.testing.assert_close(merged_keys, keys, rtol=0, atol=2e-5)


def kolmogorov_smirnov(keys):
    """Largest difference between the empirical distribution and the uniform one on [0, 1]."""
    return kstest(keys.numpy(), "uniform").statistic


@pytest.mark.parametrize("dim", [1, 2, 3, 64, 256])
@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_numbers_by_content_are_almost_uniform(dim, scale):
    rows = scale * rand(20_000, dim, seed=dim)
    for seed in range(4):
        keys = uniform_by_content(rows, seed, ORIGIN)
        assert keys.min() >= 0
        assert keys.max() <= 1
        assert kolmogorov_smirnov(keys) < (0.1 if dim < 3 else 0.03)


@pytest.mark.parametrize("dim", [1, 3, 8, 33])
@pytest.mark.parametrize("total", [29, 1001])
def test_repeated_vectors_are_placed_last(dim, total):
    """One vector fills the batch; nine others are chosen, and the repeated one once."""
    others = rand(9, dim, seed=total)
    rows = rand(1, dim, seed=5).expand(total, dim).clone()
    places = torch.randperm(total, generator=torch.Generator().manual_seed(dim))[:9]
    rows[places] = others
    chosen, keys = draw(rows, 12, 0, ORIGIN)
    assert as_set(chosen[:10]) == as_set(torch.cat([others, rand(1, dim, seed=5)]))
    assert torch.equal(keys[:10], keys[:10].sort().values)
    assert torch.equal(chosen[10:], rand(1, dim, seed=5).expand(2, dim))
    merged, _ = merge(rows.split(10), 12, 0)
    assert as_set(merged) == as_set(chosen)


def test_numbers_by_sample_equal_splitmix64_in_python_integers():
    mask = 2**64 - 1
    index, positions, seed = [0, 7, 49_999, 10**9], 5, 12
    keys = uniform_by_sample(torch.tensor(index), positions, seed)
    for b, sample in enumerate(index):
        for place in range(positions):
            x = ((sample * positions + place) * 0x9E3779B97F4A7C15 + seed * 0xD1342543DE82EF95) & mask
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
            assert keys[b * positions + place].item() == (((x ^ (x >> 31)) >> 11) + 0.5) / 2**53


def test_numbers_by_sample_are_uniform_and_independent():
    keys = torch.stack([uniform_by_sample(torch.arange(2000), 64, seed) for seed in range(4)])
    assert all(kolmogorov_smirnov(row) < 0.006 for row in keys)
    assert (torch.corrcoef(keys) - torch.eye(4)).abs().max() < 0.01
    assert torch.corrcoef(torch.stack([keys[0, :-1], keys[0, 1:]]))[0, 1].abs() < 0.01


@pytest.mark.parametrize("dim", [2, 8, 64])
def test_two_seeds_draw_independently(dim):
    rows = rand(20_000, dim, seed=dim)
    keys = torch.stack([uniform_by_content(rows, seed, ORIGIN) for seed in range(6)])
    assert (torch.corrcoef(keys) - torch.eye(6)).abs().max() < 0.1
    first, second = (set(as_set(draw(rows, 1000, seed, ORIGIN)[0])) for seed in (0, 1))
    assert len(first & second) < 200  # 50 expected of independent draws


def test_choice_from_rows_far_from_the_origin_is_unbiased():
    """Such rows have almost the same direction from the origin."""
    rows = rand(20_000, 16, seed=11) + 300
    chosen, from_origin = (draw(rows, 512, 3, center)[0] for center in (rows.mean(0), ORIGIN))
    assert (chosen.mean(0) - rows.mean(0)).norm() < 0.45  # for fair draws about sqrt(16 / 512) = 0.18
    assert chosen.var(0).mean() == pytest.approx(1.0, abs=0.15)
    assert (from_origin.mean(0) - rows.mean(0)).norm() > 1.0


@pytest.mark.parametrize("dim", [1, 17, 256])
def test_numbers_by_content_are_equal_for_equal_rows_and_continuous(dim):
    rows = rand(100, dim, seed=dim)
    keys = uniform_by_content(rows, 5, rows.mean(0))
    assert torch.equal(uniform_by_content(rows.flip(0), 5, rows.mean(0)).flip(0), keys)
    assert torch.equal(uniform_by_content(rows[50:].T.contiguous().T, 5, rows.mean(0)), keys[50:])
    line = torch.lerp(rows[0].double(), rows[1].double(), torch.linspace(0, 1, 20_001).double()[:, None])
    if dim > 1:
        assert uniform_by_content(line, 1, ORIGIN).diff().abs().max() < 0.02


def stats_of(rows, indices, keys, codes=5, num=4):
    """Statistics of rows (N, D) with indices (N,) and keys (N,), row by row."""
    counts, sums = torch.zeros(codes), torch.zeros(codes, rows.shape[1])
    for row, index in zip(rows, indices.tolist(), strict=True):
        counts[index] += 1
        sums[index] += row
    chosen = sorted(range(len(rows)), key=keys.tolist().__getitem__)[:num]
    candidates, best = torch.zeros(num, rows.shape[1]), torch.full((num,), torch.inf, dtype=torch.float64)
    candidates[: len(chosen)], best[: len(chosen)] = rows[chosen], keys[chosen]
    return CodeStats(counts, sums, candidates, best)


def batch(num, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-50, 50, (num, 3), generator=generator).float()  # integers, whose sums are exact
    indices = torch.randint(5, (num,), generator=generator)
    return rows, indices, torch.rand(num, generator=generator, dtype=torch.float64)


def assert_same(first, second):
    torch.testing.assert_close(vars(first), vars(second), rtol=0, atol=0)


@pytest.mark.parametrize("sizes", [(20, 30), (1, 1), (2, 0, 7), (3, 1, 50, 2), (0, 0)])
def test_sum_of_parts_has_the_statistics_of_the_whole(sizes):
    rows, indices, keys = batch(sum(sizes), seed=1)
    parts = [stats_of(*part) for part in zip(rows.split(sizes), indices.split(sizes), keys.split(sizes), strict=True)]
    for order in itertools.permutations(parts):
        assert_same(functools.reduce(operator.add, order), stats_of(rows, indices, keys))


def test_stack_and_unbind_are_inverse():
    parts = [stats_of(*batch(num, seed=num)) for num in (4, 9, 2)]
    stacked = CodeStats.stack(parts)
    assert [value.shape for value in vars(stacked).values()] == [(3, 5), (3, 5, 3), (3, 4, 3), (3, 4)]
    for part, again in zip(parts, stacked.unbind(), strict=True):
        assert_same(part, again)
    for part, again in zip(parts, (stacked + stacked).unbind(), strict=True):
        assert_same(part + part, again)
    twice = CodeStats.stack([stacked, stacked])
    assert twice.sums.shape == (2, 3, 5, 3)
    assert_same(twice.unbind()[1].unbind()[2], parts[2])
