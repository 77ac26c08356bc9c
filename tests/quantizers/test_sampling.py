"""Random subsets of vectors: the same however the batch is split, uniform, and without repeats."""

import math

import pytest
import torch

from tests.helpers.family import as_set, rand
from vqlab.quantizers import sampling
from vqlab.quantizers.sampling import exponential_race, smallest_k, uniform_by_content, uniform_by_sample

ORIGIN = torch.zeros(())


def draw(rows, num, seed, center):
    return smallest_k(rows, uniform_by_content(rows, seed, center), num)


def merge(parts, num, seed):
    """Choose from each part, then from what was chosen."""
    rows, keys = zip(*[draw(part, num, seed, ORIGIN) for part in parts], strict=True)
    return smallest_k(torch.cat(rows), torch.cat(keys), num)


@pytest.mark.parametrize("dim", [1, 2, 64])
@pytest.mark.parametrize(("total", "num"), [(100, 10), (100, 100), (5, 20), (1, 1), (333, 40)])
@pytest.mark.parametrize("seed", range(2))
def test_the_choice_from_parts_is_that_from_the_whole(dim, total, num, seed):
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
    keys = keys.double().sort().values
    steps = torch.arange(len(keys) + 1).double() / len(keys)
    return max((keys - steps[:-1]).abs().max().item(), (keys - steps[1:]).abs().max().item())


@pytest.mark.parametrize("dim", [1, 2, 3, 64, 256])
@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_numbers_by_content_are_almost_uniform(dim, scale):
    rows = scale * rand(20_000, dim, seed=dim)
    for seed in range(4):
        keys = uniform_by_content(rows, seed, ORIGIN)
        assert keys.min() >= 0
        assert keys.max() <= 1
        assert kolmogorov_smirnov(keys) < (0.1 if dim < 3 else 0.03)


@pytest.mark.parametrize("dim", [2, 3, 8, 64])  # in one dimension two seeds differ in wave length alone
def test_two_seeds_draw_independently(dim):
    rows = rand(20_000, dim, seed=dim)
    keys = torch.stack([uniform_by_content(rows, seed, ORIGIN) for seed in range(6)])
    correlation = torch.corrcoef(keys) - torch.eye(6)
    assert correlation.abs().max() < 0.1
    first = set(as_set(draw(rows, 1000, 0, ORIGIN)[0]))
    second = set(as_set(draw(rows, 1000, 1, ORIGIN)[0]))
    assert len(first & second) < 200  # 50 expected of independent draws


@pytest.mark.parametrize("dim", [1, 3, 8, 33])
@pytest.mark.parametrize("total", [29, 1001])
def test_repeats_go_to_the_end(dim, total):
    """One vector fills the batch; the few others must all be chosen, and the repeated one once."""
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


def test_numbers_by_content_are_continuous():
    """20000 steps from one row to another pass many periods of the wave without a jump."""
    start, end = rand(2, 8, seed=4).double()
    keys = uniform_by_content(torch.lerp(start, end, torch.linspace(0, 1, 20_001).double()[:, None]), 1, ORIGIN)
    assert keys.diff().abs().max() < 0.01
    assert keys.diff().sign().diff().ne(0).sum() > 5


def test_the_choice_from_rows_far_from_the_origin_is_not_from_one_side():
    """Seen from the origin such rows have almost the same direction."""
    rows = rand(20_000, 16, seed=11) + 300
    chosen, _ = draw(rows, 512, 3, rows.mean(0))
    shift = (chosen.mean(0) - rows.mean(0)).norm()  # for fair draws about sqrt(16 / 512) = 0.18
    assert shift < 0.45
    assert chosen.var(0).mean() == pytest.approx(1.0, abs=0.15)
    seen_from_origin, _ = draw(rows, 512, 3, ORIGIN)
    assert (seen_from_origin.mean(0) - rows.mean(0)).norm() > 1.0


def test_numbers_by_sample_are_splitmix64():
    """Against the published finaliser in Python's unbounded integers."""
    mask = 2**64 - 1
    index, positions, seed = [0, 7, 49_999, 10**9], 5, 12
    keys = uniform_by_sample(torch.tensor(index), positions, seed)
    for b, sample in enumerate(index):
        for place in range(positions):
            x = ((sample * positions + place) * 0x9E3779B97F4A7C15 + seed * 0xD1342543DE82EF95) & mask
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
            assert keys[b * positions + place].item() == (((x ^ (x >> 31)) >> 11) + 0.5) / 2**53


@pytest.mark.parametrize("dim", [1, 3, 17, 64, 256])
@pytest.mark.parametrize("total", [2, 33, 1000])
def test_equal_rows_have_equal_numbers_at_any_position(dim, total):
    rows = rand(total, dim, seed=dim)
    keys = uniform_by_content(rows, 5, rows.mean(0))
    for part in (rows.flip(0), rows[total // 2 :], torch.cat([rows[1:], rows]), rows.T.contiguous().T):
        found = uniform_by_content(part, 5, rows.mean(0))
        for row, key in zip(part[:20], found[:20], strict=True):
            assert key == keys[(rows == row).all(1)][0]


@pytest.mark.parametrize("output", [0, 2**64 - 1])
def test_numbers_by_sample_lie_inside_the_interval(output):
    """The samples whose hash is the lowest and the highest: Gumbel noise is infinite at 0 and at 1."""
    mask, x = 2**64 - 1, output
    for shift, factor in ((31, 1), (27, 0x94D049BB133111EB), (30, 0xBF58476D1CE4E5B9)):
        x = x * pow(factor, -1, 2**64) & mask
        part = x
        for _ in range(64 // shift):  # undo x ^ (x >> shift)
            part = x ^ (part >> shift)
        x = part
    sample = x * pow(0x9E3779B97F4A7C15, -1, 2**64) & mask
    sample -= 2**64 * (sample >= 2**63)
    key = uniform_by_sample(torch.tensor([sample]), 1, 0).item()
    assert 0 < key < 1
    assert key == pytest.approx(0.5 + math.copysign(0.5, output - 1), abs=1e-15)


def test_numbers_by_sample_are_uniform_and_independent():
    keys = torch.stack([uniform_by_sample(torch.arange(2000), 64, seed) for seed in range(4)])
    assert all(kolmogorov_smirnov(row) < 0.006 for row in keys)
    assert (torch.corrcoef(keys) - torch.eye(4)).abs().max() < 0.01
    assert torch.corrcoef(torch.stack([keys[0, :-1], keys[0, 1:]]))[0, 1].abs() < 0.01


def test_numbers_by_sample_do_not_depend_on_the_batch():
    whole = uniform_by_sample(torch.arange(10), 6, 3).view(10, 6)
    assert torch.equal(uniform_by_sample(torch.tensor([7, 2]), 6, 3).view(2, 6), whole[[7, 2]])


def test_the_smallest_key_is_chosen_in_proportion_to_the_weights():
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).double()
    times = exponential_race(torch.rand(200_000, 5, generator=torch.Generator().manual_seed(0)).double(), weights)
    counts = torch.bincount(times.argmin(1), minlength=5) / 200_000
    torch.testing.assert_close(counts.double(), weights / 10, rtol=0, atol=0.005)
    assert times[:, 0].isinf().all()


def test_a_compiler_sees_the_hash_as_one_operator():
    """Its products wrap around. As C++ of a compiler's making that is undefined: loops were endless."""
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    rows, seed = rand(50, 7, seed=1), torch.tensor(12)
    compiled = torch.compile(uniform_by_content, backend=keep, fullgraph=True)
    assert torch.equal(compiled(rows, seed, ORIGIN), uniform_by_content(rows, seed, ORIGIN))
    assert [node for node in graphs[0].graph.nodes if "uniform_by_sample" in str(node.target)]
    assert not [node for node in graphs[0].graph.nodes if "rshift" in str(node.target)]
    torch.library.opcheck(sampling._operator, (torch.arange(4), 3, torch.tensor(5)))
