"""The cache keeps the state of each chain over shuffled epochs, checkpoints and any number of ranks."""

import pytest
import torch

from tests.helpers.refusal import refused
from tests.helpers.two_ranks import on_two_ranks
from vqlab.samplers import ChainCache

SIZE, POSITIONS, K = 23, 5, 300


def codes_of(index, visit):
    """Codes that identify the example and the visit."""
    return (index[:, None] * 7 + visit * 31 + torch.arange(POSITIONS)) % K


def order_of(visit):
    """The shuffled examples of an epoch in batches of 6, which leave 5 examples out."""
    return torch.randperm(SIZE, generator=torch.Generator().manual_seed(visit))[: SIZE // 6 * 6].view(-1, 6)


def assert_known(cache, index, visits):
    """The cache has the codes of the last of ``visits`` epochs that contained an example."""
    last = torch.full((SIZE,), -1)
    for visit in range(visits):
        last[order_of(visit).flatten()] = visit
    codes, known = cache.get(index)
    assert torch.equal(known, last[index] >= 0)
    assert torch.equal(codes[known], codes_of(index, last[index, None])[known])


def visit_all(cache, visit, rank=0, world=1):
    for batch in order_of(visit):
        own = batch[rank::world]
        assert_known(cache, own, visit)
        cache.put(own, codes_of(own, visit), moved=own % 2 == 0)


@pytest.fixture
def visited():
    cache = ChainCache(SIZE, POSITIONS, K)
    for visit in range(4):
        visit_all(cache, visit)
    return cache


def test_states_are_known_after_shuffled_epochs(visited):
    assert_known(visited, torch.arange(SIZE), 4)


class Backwards(torch.Tensor):
    """A tensor that writes the rows of an assignment in reverse order; a GPU may write in any order."""

    def __setitem__(self, place, values):
        self.as_subclass(torch.Tensor)[place.flip(0)] = values.flip(0)


@pytest.mark.parametrize("kind", [torch.Tensor, Backwards])
def test_put_keeps_the_last_state_of_a_repeated_example(kind):
    cache = ChainCache(4, 1, 8)
    cache.codes, cache.age = cache.codes.as_subclass(kind), cache.age.as_subclass(kind)
    cache.put(torch.tensor([1, 2, 1, 1]), torch.tensor([[3], [4], [5], [6]]), torch.tensor([True, True, True, False]))
    assert cache.get(torch.tensor([1, 2]))[0].tolist() == [[6], [4]]
    assert cache.ages(torch.tensor([1, 2])).tolist() == [1, 0]


def test_messages(visited):
    stored = visited.whole()
    with refused("23 examples", "24", "resume"):
        ChainCache(SIZE + 1, POSITIONS, K).fill(stored)
    with refused("5 codes", "9"):
        ChainCache(SIZE, 9, K).fill(stored)
    with refused("index must be a position in the training set of 23 examples, got 23", "train_size"):
        ChainCache(SIZE, POSITIONS, K).get(torch.tensor([0, 23]))


def test_two_ranks_store_the_rows_of_one_process(visited, tmp_path):
    """Also for a checkpoint of two ranks that one process resumes."""
    ranks = on_two_ranks(run_rank, tmp_path)
    expected = visited.whole()
    for rank, stored in enumerate(ranks):
        assert torch.equal(stored["own"], expected["codes"][rank::2])
        for name in ("codes", "age"):
            assert torch.equal(stored["whole"][name], expected[name])
    one = ChainCache(SIZE, POSITIONS, K)
    one.fill(ranks[0]["whole"])
    assert torch.equal(one.codes, visited.codes)


def run_rank(rank):
    cache = ChainCache(SIZE, POSITIONS, K)
    for visit in range(2):
        visit_all(cache, visit, rank, 2)
    resumed = ChainCache(SIZE, POSITIONS, K)
    resumed.fill(cache.whole())
    for visit in range(2, 4):
        visit_all(resumed, visit, rank, 2)
    return {"own": resumed.codes, "whole": resumed.whole()}


def test_age_counts_visits_since_the_last_move():
    cache, index = ChainCache(4, 1, 8), torch.tensor([2, 3])
    for moved in ([True, True], [False, True], [False, False]):
        cache.put(index, torch.zeros(2, 1, dtype=torch.int64), torch.tensor(moved))
    assert cache.ages(index).tolist() == [2, 1]
