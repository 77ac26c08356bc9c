"""Diversity of samples."""

import torch

from vqlab.metrics.images.diversity import EffectiveClasses, diversity


def test_diversity_is_the_ratio_of_mean_distances():
    fake, real = torch.randn(200, 3, 4, 4) * 0.3 + 5, torch.randn(200, 3, 4, 4)
    mean_squares = [torch.cdist(x.flatten(1), x.flatten(1)).square().mean().sqrt() for x in (fake, real)]
    torch.testing.assert_close(diversity(fake, real), mean_squares[0] / mean_squares[1], atol=1e-4, rtol=1e-4)
    assert diversity(fake[:1].expand(8, -1, -1, -1), real) < 1e-6


def test_effective_classes():
    classes = EffectiveClasses(10)
    for batch in (torch.arange(10), torch.arange(10)):
        classes.update(batch)
    torch.testing.assert_close(classes.compute(), torch.tensor(10.0))
    classes.reset()
    classes.update(torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(classes.compute(), torch.tensor(1.0))
