"""Distances of glyphs against loops in NumPy, and their response to typical faults."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import gaussian_blur

from vqlab.metrics import GlyphDistance

COUNT, SIZE = 12, 32


def drawings(seed):
    """Strokes with slightly grey edges; 0 is ink."""
    generator = torch.Generator().manual_seed(seed)
    coarse = (torch.rand(COUNT, 1, 8, 8, generator=generator) > 0.3).float()
    return F.avg_pool2d(F.interpolate(coarse, scale_factor=16.0), 5, stride=4, padding=2, count_include_pad=False)


def measured(generated, target, source, style=None):
    metric = GlyphDistance()
    style = torch.zeros(COUNT, dtype=torch.int64) if style is None else style
    rows = generated, target, source, torch.arange(float(COUNT)), style
    for part in zip(*(row.split(5) for row in rows), strict=True):
        metric.update(*part)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.fixture
def glyphs():
    target = drawings(1)
    source = torch.where(torch.rand(COUNT, 1, SIZE, SIZE) < 0.2, 1 - target, target)
    return target, source


def test_distances_and_gains_equal_loops(glyphs):
    target, source = glyphs
    made = (0.6 * target + 0.4 * source).clamp(0, 1)
    found = measured(made, target, source)
    a, b, c = (x[:, 0].double().numpy() for x in (made, target, source))

    def by_hand(x, chosen=slice(None)):
        l1 = np.mean([np.abs(p - q).mean() for p, q in zip(x[chosen], b[chosen], strict=True)])
        rmse = np.mean([np.sqrt(((p - q) ** 2).mean()) for p, q in zip(x[chosen], b[chosen], strict=True)])
        both = [((p < 0.5) & (q < 0.5)).sum() / ((p < 0.5) | (q < 0.5)).sum() for p, q in zip(x, b, strict=True)]
        return {"l1": l1, "rmse": rmse, "iou": np.mean(both[chosen])}

    for name, expected in by_hand(a).items():
        identity = by_hand(c)[name]
        gain = expected - identity if name == "iou" else 1 - expected / identity
        assert found[name] == pytest.approx(expected, rel=1e-5)
        assert found[f"{name}_identity"] == pytest.approx(identity, rel=1e-5)
        assert found[f"{name}_gain"] == pytest.approx(gain, rel=1e-4)
    assert found["dense_l1"] == pytest.approx(by_hand(a, slice(9, None))["l1"], rel=1e-5)  # the densest 3 of 12


def test_source_has_no_gain_and_target_has_full_gain(glyphs):
    target, source = glyphs
    copied, perfect = measured(source, target, source), measured(target, target, source)
    assert [copied[f"{name}_gain"] for name in ("l1", "rmse", "ssim", "iou")] == [0.0] * 4
    assert copied["retrieval"] == copied["retrieval_identity"]
    assert perfect["l1_gain"] == perfect["retrieval"] == 1.0
    assert perfect["ssim"] == pytest.approx(1.0)
    assert [perfect[name] for name in ("diversity", "grey", "ink")] == pytest.approx([1.0] * 3)


def test_faults_change_the_metrics(glyphs):
    target, source = glyphs
    collapsed = measured(target[:1].expand(COUNT, -1, -1, -1), target, source)
    assert collapsed["diversity"] == pytest.approx(0, abs=1e-3)
    assert collapsed["retrieval"] == pytest.approx(1 / COUNT)
    assert measured(gaussian_blur(target, 7, 3.0), target, source)["grey"] > 2
    assert measured(target.roll(1, 0), target, source)["retrieval"] == 0
    assert measured((target - 0.3).clamp_min(0), target, source)["ink"] > 1.1


def test_retrieval_compares_glyphs_of_one_style(glyphs):
    target, source = glyphs
    target = torch.cat([target[:6], target[:6]])
    swapped = target[torch.arange(COUNT) ^ 1]
    style = torch.arange(COUNT) % 2
    assert measured(swapped, target, source)["retrieval"] == 0
    apart = torch.cdist(swapped.flatten(1), target.flatten(1), p=1)
    nearest = [min((apart[i, j].item(), j) for j in range(COUNT) if style[i] == style[j])[0] for i in range(COUNT)]
    expected = np.mean([apart[i, i].item() <= near for i, near in enumerate(nearest)])
    assert measured(swapped, target, source, style)["retrieval"] == pytest.approx(expected)


def test_blank_and_large_glyphs():
    blank, large = torch.ones(COUNT, 1, SIZE, SIZE), torch.rand(COUNT, 1, 128, 128)
    assert all(np.isfinite(list(measured(blank, blank, blank).values())))
    assert measured(large, large, 1 - large)["retrieval"] == 1.0
