"""Splits in which characters of one outline stay together."""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vqlab.data.fonts.glyphs import Glyphs


def group_by_outline(characters: list[int], fonts: list[Glyphs]) -> np.ndarray:
    """Return a number for each character, equal for those that share an outline in any font, or are linked by such."""
    starts, ends, nodes = [], [], len(characters)
    for glyphs in fonts:
        here = np.flatnonzero(np.isin(characters, glyphs.characters))
        outlines = glyphs.outlines[glyphs.rows(np.array(characters)[here])]
        distinct, which = np.unique(outlines, return_inverse=True)
        starts.append(here)
        ends.append(nodes + which)
        nodes += len(distinct)
    links = np.concatenate(starts), np.concatenate(ends)
    graph = coo_array((np.ones(len(links[0]), bool), links), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][: len(characters)]


def split_groups(groups: np.ndarray, val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Return the sorted positions in each split, whole groups each, drawn by ``seed``; none if there are too few.

    Example:
        >>> parts = split_groups(np.array([0, 1, 2, 2, 3, 4, 5, 6, 7, 8]), 0.2, 0.2, seed=0)
        >>> sorted(np.concatenate(list(parts.values())).tolist()) == list(range(10))
        True
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    shares = [share for share in (val_fraction, test_fraction) if share]
    if count <= len(shares):
        return {}
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    sizes = np.bincount(groups, minlength=count)[order]
    splits: dict[str, np.ndarray] = {}
    start = 0
    for name, share in zip(("val", "test"), shares, strict=False):
        wanted = max(1, round(share * len(groups)))
        end = start + 1 + int(np.searchsorted(np.cumsum(sizes[start:]), wanted))
        end = min(end, count - (len(shares) - len(splits)))  # at least a group is left for each other split
        splits[name], start = order[start:end], end
    splits["train"] = order[start:]
    return {name: np.flatnonzero(np.isin(groups, chosen)) for name, chosen in splits.items()}
