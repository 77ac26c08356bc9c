"""The state of each example's chain is kept over shuffling, saving, and any number of ranks."""

import pytest
import torch

from tests.helpers.refusal import refused
from tests.helpers.two_ranks import on_two_ranks
from vqlab.samplers.chain_cache import ChainCache

SIZE, POSITIONS, K = 23, 5, 300


def codes_of(index, visit):
    """Codes that identify the example and the visit."""
    return (index[:, None] * 7 + visit * 31 + torch.arange(POSITIONS)) % K


def visit_all(cache, visit, rank=0, world=1, batch=3):
    """One epoch in an order of its own; R ranks take turns at the batches of one."""
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(visit))[
        : SIZE // (batch * world) * batch * world
    ]
    for part in order.view(-1, batch * world):
        mine = part[rank::world]
        if visit:
            codes, known = cache.get(mine)
            seen = cache_seen(visit)[mine]
            assert torch.equal(known, seen >= 0)
            assert torch.equal(codes[known], codes_of(mine, seen[:, None])[known])
        cache.put(mine, codes_of(mine, visit), moved=mine % 2 == 0)


def cache_seen(visits, batch=6):
    """The last epoch before ``visits`` in which each example came, -1 for never; epochs leave some out."""
    seen = torch.full((SIZE,), -1)
    for visit in range(visits):
        order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(visit))
        seen[order[: SIZE // batch * batch]] = visit
    return seen


@pytest.fixture
def visited():
    cache = ChainCache(SIZE, POSITIONS, K)
    for visit in range(4):
        visit_all(cache, visit, batch=6)
    return cache


def test_states_come_back_after_shuffled_epochs(visited):
    codes, known = visited.get(torch.arange(SIZE))
    seen = cache_seen(4)
    assert torch.equal(known, seen >= 0)
    assert torch.equal(codes[known], codes_of(torch.arange(SIZE), seen[:, None])[known])


class Backwards(torch.Tensor):
    """Writes the rows of an assignment from the last to the first; a GPU may, in any order."""

    def __setitem__(self, place, values):
        self.as_subclass(torch.Tensor)[place.flip(0)] = values.flip(0)


@pytest.mark.parametrize("kind", [torch.Tensor, Backwards])
def test_of_an_example_that_occurs_twice_the_last_state_is_kept(kind):
    cache = ChainCache(4, 1, 8)
    cache.codes, cache.age = cache.codes.as_subclass(kind), cache.age.as_subclass(kind)
    cache.put(torch.tensor([1, 2, 1, 1]), torch.tensor([[3], [4], [5], [6]]), torch.tensor([True, True, True, False]))
    assert cache.get(torch.tensor([1, 2]))[0].tolist() == [[6], [4]]
    assert cache.ages(torch.tensor([1, 2])).tolist() == [1, 0]


def test_rows_of_other_data_or_codes_are_refused(visited):
    stored = visited.whole()
    with refused("23 examples", "24", "resume"):
        ChainCache(SIZE + 1, POSITIONS, K).fill(stored)
    with refused("5 codes", "9"):
        ChainCache(SIZE, 9, K).fill(stored)
    with refused("num_embeddings must be that of the checkpoint, got 64"):
        ChainCache(SIZE, POSITIONS, 64).fill(stored)
    with refused("index must be a position in the training set of 23 examples, got 23", "train_size"):
        ChainCache(SIZE, POSITIONS, K).get(torch.tensor([0, 23]))


def test_two_ranks_hold_their_own_rows_and_together_what_one_holds(visited, tmp_path):
    """In another order of the ranks' examples than that of ownership; saved by two, resumed by one."""
    ranks = on_two_ranks(run_rank, tmp_path)
    expected = visited.whole()
    for rank, stored in enumerate(ranks):
        assert torch.equal(stored["own"], expected["codes"][rank::2])  # no other rows are there
        for name in ("codes", "age"):
            assert torch.equal(stored["whole"][name], expected[name])
    one = ChainCache(SIZE, POSITIONS, K)
    one.fill(ranks[0]["whole"])
    assert torch.equal(one.codes, visited.codes)


def run_rank(rank):
    cache = ChainCache(SIZE, POSITIONS, K)
    for visit in range(2):
        visit_all(cache, visit, rank, 2)
    resumed = ChainCache(SIZE, POSITIONS, K)  # on two ranks as well
    resumed.fill(cache.whole())
    for visit in range(2, 4):
        visit_all(resumed, visit, rank, 2)
    return {"own": resumed.codes, "whole": resumed.whole()}


def test_age_counts_visits_since_the_last_move():
    cache, index = ChainCache(4, 1, 8), torch.tensor([2, 3])
    for moved in ([True, True], [False, True], [False, False]):
        cache.put(index, torch.zeros(2, 1, dtype=torch.int64), torch.tensor(moved))
    assert cache.ages(index).tolist() == [2, 1]
