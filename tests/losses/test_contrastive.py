"""InfoNCE against a loop over anchors and positives."""

import math

import pytest
import torch

from vqlab.losses import info_nce


def by_loop(anchors, positives, temperature, same=None):
    total = 0.0
    for i in range(len(anchors)):
        scores = {}
        for j in range(len(positives)):
            if i == j or same is None or same[i] != same[j]:
                cosine = anchors[i] @ positives[j] / anchors[i].norm() / positives[j].norm()
                scores[j] = math.exp(cosine.item() / temperature)
        total -= math.log(scores[i] / sum(scores.values()))
    return total / len(anchors)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("kinds", [None, 3])
def test_info_nce_equals_the_formula(temperature, kinds):
    anchors, positives = torch.randn(2, 8, 5, dtype=torch.float64)
    same = None if kinds is None else torch.randint(kinds, (8,))
    loss = info_nce(anchors, positives, temperature, same)
    assert loss.item() == pytest.approx(by_loop(anchors, positives, temperature, same), rel=1e-9)
