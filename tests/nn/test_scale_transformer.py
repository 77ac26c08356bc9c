"""The transformer over scales: block-causal attention, and its cache."""

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.nn import ScaleTransformer


def tiny(**options):
    torch.manual_seed(1)
    sizes = {
        "num_tokens": 5,
        "lengths": [1, 4, 9],
        "in_features": 3,
        "num_classes": 2,
        "dim": 16,
        "depth": 2,
        "heads": 2,
    }
    net = ScaleTransformer(**{**sizes, **options}).eval()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return net


def some_features():
    return torch.randn(3, 13, 3, generator=torch.Generator().manual_seed(2))


def test_positions_attend_to_their_scale_and_those_before():
    net, label = tiny(), torch.tensor([0, 1, 2])
    before = net(some_features(), label)
    assert before.shape == (3, 14, 1, 5)
    for place, first in ((0, 1), (2, 1), (4, 5), (12, 5)):  # feature, first position of its scale
        changed = some_features()
        changed[:, place] += 1
        same = net(changed, label).isclose(before).all(-1)[..., 0]
        assert same[:, :first].all()
        assert not same[:, first:].any()


@pytest.mark.parametrize("calls", [[0, 4, 9], [0, 13], [4, 9]])
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_logits_with_and_without_a_cache_are_equal(calls, num_codebooks):
    net, label = tiny(num_codebooks=num_codebooks), torch.tensor([0, 1, 2])
    cache = net.new_cache(3)
    parts = [net(features, label, cache) for features in some_features().split(calls, 1)]
    torch.testing.assert_close(torch.cat(parts, 1), net(some_features(), label), rtol=1e-4, atol=1e-5)
    with refused("features must fill the scales of [1, 4, 9] positions"):
        net(some_features()[:, :1], label, cache)


def test_incomplete_scales_are_refused():
    with refused("features must fill the scales of [1, 4, 9] positions, got 0 to 3"):
        tiny()(some_features()[:, :2], torch.tensor([0, 1, 2]))
