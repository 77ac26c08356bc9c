"""The draw by lot: the same winners however the batch is divided, fair, and without repeats."""

import math

import pytest
import torch

from tests.helpers.codes import as_set
from vqlab.quantizers import sampling as lottery
from vqlab.quantizers.sampling import (
    exponential_race,
    gather_smallest_k,
    lots_by_content,
    smallest_k,
    uniform_by_sample,
)

ORIGIN = torch.zeros(())


def draw(rows, num, seed, center):
    return smallest_k(rows, lots_by_content(rows, seed, center), num)


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def merge(parts, num, seed):
    """Draw from each part, then from the parts' winners."""
    rows, lots = zip(*[draw(part, num, seed, ORIGIN) for part in parts], strict=True)
    return smallest_k(torch.cat(rows), torch.cat(lots), num)


@pytest.mark.parametrize("dim", [1, 2, 3, 64])
@pytest.mark.parametrize(("total", "num"), [(100, 10), (100, 100), (5, 20), (1, 1), (333, 40)])
@pytest.mark.parametrize("seed", range(3))
def test_the_parts_winners_are_the_wholes(dim, total, num, seed):
    rows = rand(total, dim, seed=seed)
    whole, lots = draw(rows, num, seed, ORIGIN)
    assert whole.shape == (num, dim)
    assert torch.equal(lots, lots.sort().values)
    assert lots.isfinite().sum() == min(num, total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    for parts in (rows[order].split(max(1, total // 3)), [rows[0::2], rows[1::2]], rows.flip(0).split(7)):
        merged, merged_lots = merge(parts, num, seed)
        assert as_set(merged) == as_set(whole)
        torch.testing.assert_close(merged_lots, lots, rtol=0, atol=2e-5)


def test_the_winners_have_the_lowest_lots():
    rows = rand(200, 5, seed=1)
    lots = lots_by_content(rows, 3, ORIGIN)
    winners, won = draw(rows, 20, 3, ORIGIN)
    expected = sorted(range(200), key=lambda n: lots[n].item())[:20]
    assert torch.equal(winners, rows[expected])
    assert torch.equal(won, lots[expected])


def test_the_rows_missing_are_never_drawn_before_rows_that_exist():
    winners, lots = draw(torch.ones(2, 3) * torch.tensor([[1.0], [-2.0]]), 5, 0, ORIGIN)
    assert lots.isfinite().tolist() == [True, True, False, False, False]
    assert winners[2:].eq(0).all()
    merged, merged_lots = gather_smallest_k(winners, lots, 3)
    assert as_set(merged[:2]) == as_set(winners[:2])
    assert merged_lots[2] == math.inf


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
@pytest.mark.parametrize(("total", "num"), [(30, 7), (4, 7)])
def test_leading_dimensions_are_draws_of_their_own(total, num, tolerance):
    rows, lots = rand(2, 3, total, 5, seed=1), rand(2, 3, total, seed=2)
    winners, won = smallest_k(rows, lots, num, tolerance)
    for n in range(6):
        one, its = smallest_k(rows.flatten(0, 1)[n], lots.flatten(0, 1)[n], num, tolerance)
        assert torch.equal(winners.flatten(0, 1)[n], one)
        assert torch.equal(won.flatten(0, 1)[n], its)


def kolmogorov_smirnov(lots):
    """Largest difference between the empirical distribution and the uniform one on [0, 1]."""
    lots = lots.double().sort().values
    steps = torch.arange(len(lots) + 1).double() / len(lots)
    return max((lots - steps[:-1]).abs().max().item(), (lots - steps[1:]).abs().max().item())


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 64, 256])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_lots_are_near_uniform(dim, scale):
    rows = scale * rand(20_000, dim, seed=dim)
    for seed in range(4):
        lots = lots_by_content(rows, seed, ORIGIN)
        assert lots.min() >= 0
        assert lots.max() <= 1
        assert kolmogorov_smirnov(lots) < (0.1 if dim < 3 else 0.03)


@pytest.mark.parametrize("dim", [2, 3, 8, 64])  # in one dimension two seeds differ in wave length alone
def test_two_seeds_draw_independently(dim):
    rows = rand(20_000, dim, seed=dim)
    lots = torch.stack([lots_by_content(rows, seed, ORIGIN) for seed in range(6)])
    correlation = torch.corrcoef(lots) - torch.eye(6)
    assert correlation.abs().max() < 0.1
    first = set(as_set(draw(rows, 1000, 0, ORIGIN)[0]))
    second = set(as_set(draw(rows, 1000, 1, ORIGIN)[0]))
    assert len(first & second) < 200  # 50 expected of independent draws


@pytest.mark.parametrize("dim", [2, 8, 64])
def test_the_winners_look_like_the_rows(dim):
    """Mean and variance of the winners of several draws are those of all rows: no corner of space is preferred."""
    rows = rand(5000, dim, seed=dim) * torch.linspace(0.5, 2, dim)
    winners = torch.cat([draw(rows, 200, seed, ORIGIN)[0] for seed in range(20)])
    torch.testing.assert_close(winners.mean(0), rows.mean(0), rtol=0, atol=0.3)
    torch.testing.assert_close(winners.std(0), rows.std(0), rtol=0.25, atol=0)


@pytest.mark.parametrize("dim", [1, 3, 5, 8, 33, 64])
@pytest.mark.parametrize("total", [29, 64, 1001])
def test_repeats_go_behind_all_others(dim, total):
    """One vector fills the batch; the few others must all be drawn, and the repeated one once."""
    others = rand(9, dim, seed=total)
    rows = rand(1, dim, seed=5).expand(total, dim).clone()
    places = torch.randperm(total, generator=torch.Generator().manual_seed(dim))[:9]
    rows[places] = others
    winners, lots = draw(rows, 12, 0, ORIGIN)
    assert as_set(winners[:10]) == as_set(torch.cat([others, rand(1, dim, seed=5)]))
    assert torch.equal(lots[:10], lots[:10].sort().values)
    assert torch.equal(winners[10:], rand(1, dim, seed=5).expand(2, dim))
    merged, _ = merge(rows.split(10), 12, 0)
    assert as_set(merged) == as_set(winners)


def test_a_lot_is_a_continuous_function_of_its_row():
    rows = rand(5000, 32, seed=2)
    moved = rows * (1 + 1e-7 * rand(5000, 32, seed=3))
    assert (lots_by_content(rows, 1, ORIGIN) - lots_by_content(moved, 1, ORIGIN)).abs().max() < 4e-5


def test_lots_do_not_jump_along_a_path():
    """20000 steps from one row to another pass many crests of the wave, and no cliff."""
    start, end = rand(2, 8, seed=4).double()
    lots = lots_by_content(torch.lerp(start, end, torch.linspace(0, 1, 20_001).double()[:, None]), 1, ORIGIN)
    assert lots.diff().abs().max() < 0.01
    assert lots.diff().sign().diff().ne(0).sum() > 5


def test_zero_rows_have_a_lot():
    lots = lots_by_content(torch.zeros(3, 4), 0, ORIGIN)
    assert lots.isfinite().all()
    assert lots.unique().numel() == 1


def test_winners_of_rows_far_from_the_origin_are_no_corner_of_them():
    """Seen from the origin such rows have nearly one direction, and the lowest lots would all lie on one side."""
    rows = rand(20_000, 16, seed=11) + 300
    winners, _ = draw(rows, 512, 3, rows.mean(0))
    shift = (winners.mean(0) - rows.mean(0)).norm()  # for fair draws about sqrt(16 / 512) = 0.18
    assert shift < 0.45
    assert winners.var(0).mean() == pytest.approx(1.0, abs=0.15)
    seen_from_origin, _ = draw(rows, 512, 3, ORIGIN)
    assert (seen_from_origin.mean(0) - rows.mean(0)).norm() > 1.0


def test_lots_by_sample_are_splitmix64():
    """Against the published finaliser in Python's unbounded integers."""
    mask = 2**64 - 1
    index, positions, seed = [0, 7, 49_999, 10**9], 5, 12
    lots = uniform_by_sample(torch.tensor(index), positions, seed)
    for b, sample in enumerate(index):
        for place in range(positions):
            x = ((sample * positions + place) * 0x9E3779B97F4A7C15 + seed * 0xD1342543DE82EF95) & mask
            x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
            x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
            assert lots[b * positions + place].item() == (((x ^ (x >> 31)) >> 11) + 0.5) / 2**53


def test_a_seed_may_be_a_tensor():
    """A compiled step would be compiled again for each number."""
    seed, rows = torch.tensor(12), rand(50, 7, seed=1)
    assert torch.equal(uniform_by_sample(torch.arange(9), 4, seed), uniform_by_sample(torch.arange(9), 4, 12))
    assert torch.equal(lots_by_content(rows, seed, ORIGIN), lots_by_content(rows, 12, ORIGIN))


@pytest.mark.parametrize("dim", [1, 3, 16, 17, 64, 100, 256])
@pytest.mark.parametrize("total", [2, 33, 1000])
def test_equal_rows_have_equal_lots_wherever_they_stand(dim, total):
    rows = rand(total, dim, seed=dim)
    lots = lots_by_content(rows, 5, rows.mean(0))
    for part in (rows.flip(0), rows[total // 2 :], torch.cat([rows[1:], rows]), rows.T.contiguous().T):
        found = lots_by_content(part, 5, rows.mean(0))
        for row, lot in zip(part[:20], found[:20], strict=True):
            assert lot == lots[(rows == row).all(1)][0]


@pytest.mark.parametrize("output", [0, 2**64 - 1])
def test_lots_by_sample_lie_inside_the_interval(output):
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
    lot = uniform_by_sample(torch.tensor([sample]), 1, 0).item()
    assert 0 < lot < 1
    assert lot == pytest.approx(0.5 + math.copysign(0.5, output - 1), abs=1e-15)


def test_lots_by_sample_are_uniform_and_independent():
    lots = torch.stack([uniform_by_sample(torch.arange(2000), 64, seed) for seed in range(4)])
    assert all(kolmogorov_smirnov(row) < 0.006 for row in lots)
    assert (torch.corrcoef(lots) - torch.eye(4)).abs().max() < 0.01
    assert torch.corrcoef(torch.stack([lots[0, :-1], lots[0, 1:]]))[0, 1].abs() < 0.01


def test_lots_by_sample_do_not_depend_on_the_batch():
    whole = uniform_by_sample(torch.arange(10), 6, 3).view(10, 6)
    assert torch.equal(uniform_by_sample(torch.tensor([7, 2]), 6, 3).view(2, 6), whole[[7, 2]])


def test_a_race_is_won_in_proportion_to_the_weights():
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).double()
    times = exponential_race(torch.rand(200_000, 5, generator=torch.Generator().manual_seed(0)).double(), weights)
    wins = torch.bincount(times.argmin(1), minlength=5) / 200_000
    torch.testing.assert_close(wins.double(), weights / 10, rtol=0, atol=0.005)
    assert times[:, 0].isinf().all()


def test_a_compiler_sees_the_hash_as_one_operator():
    """Its products wrap around. As C++ of a compiler's making that is undefined: loops were endless."""
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    rows, seed = rand(50, 7, seed=1), torch.tensor(12)
    compiled = torch.compile(lots_by_content, backend=keep, fullgraph=True)
    assert torch.equal(compiled(rows, seed, ORIGIN), lots_by_content(rows, seed, ORIGIN))
    assert [node for node in graphs[0].graph.nodes if "uniform_by_sample" in str(node.target)]
    assert not [node for node in graphs[0].graph.nodes if "rshift" in str(node.target)]
    torch.library.opcheck(lottery._operator, (torch.arange(4), 3, torch.tensor(5)))
