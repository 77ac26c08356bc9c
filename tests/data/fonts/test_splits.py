import numpy as np
import pytest

from vqlab.data.fonts.glyphs import Glyphs
from vqlab.data.fonts.splits import group_by_outline, split_groups


def font(outlines):
    """A font in which each character has the outline with this number."""
    codes = np.array(sorted(outlines), np.uint32)
    keys = np.array([outlines[code] for code in codes.tolist()], np.uint64)
    return Glyphs(codes, keys, np.zeros(len(codes), np.uint8), np.zeros(len(codes), np.float32), np.zeros(0))


def test_characters_are_grouped_over_all_fonts():
    source = font({1: 10, 2: 10, 3: 11, 4: 12, 5: 13, 6: 14, 9: 10})
    target = font({1: 20, 2: 21, 3: 21, 4: 22, 6: 22})  # links 3 to 2, and so to 1; has no 5
    groups = group_by_outline([1, 2, 3, 4, 5, 6], [source, target])
    assert groups[0] == groups[1] == groups[2]
    assert groups[3] == groups[5]
    assert len(set(groups.tolist())) == 3


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.25, 0.0), (0.3, 0.2)])
def test_whole_groups_in_about_the_shares(shares):
    rng = np.random.default_rng()
    groups = np.unique(rng.integers(0, 300, 400), return_inverse=True)[1]
    parts = split_groups(groups, *shares, seed=3)
    assert set(parts) == {"train", "val", "test"} - ({"test"} if not shares[1] else set())
    assert np.sort(np.concatenate(list(parts.values()))).tolist() == list(range(400))
    inside = [set(groups[part].tolist()) for part in parts.values()]
    assert sum(map(len, inside)) == len(set().union(*inside))
    for name, share in zip(("val", "test"), shares, strict=True):
        if share:
            assert 0 <= len(parts[name]) - share * 400 < np.bincount(groups).max()
    again, other = split_groups(groups, *shares, seed=3), split_groups(groups, *shares, seed=4)
    assert all(np.array_equal(again[name], parts[name]) for name in parts)
    assert not np.array_equal(other["val"], parts["val"])


@pytest.mark.parametrize("count", range(6))
def test_each_split_gets_a_group_or_there_is_none(count):
    for share in (0.1, 0.45):
        parts = split_groups(np.arange(count), share, share, seed=0)
        assert [len(part) > 0 for part in parts.values()] == [True] * (3 if count >= 3 else 0)
    large = np.array([0] * 50 + [1, 2])  # a group as large as that may be drawn first
    assert all(len(part) for seed in range(9) for part in split_groups(large, 0.1, 0.1, seed).values())
