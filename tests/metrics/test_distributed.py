"""Two processes with half of the data each compute the values of one."""

import pytest
import torch
from torch import nn

from tests.helpers.two_ranks import on_two_ranks
from vqlab.metrics import (
    CodebookUsage,
    CodeStatistics,
    GenerationMetrics,
    GlyphDistance,
    ProposalEntropy,
    TopicClusters,
)
from vqlab.nn.frozen import Frozen

COUNT = 64
generator = torch.Generator().manual_seed(0)
CODES = torch.randint(16, (COUNT, 4), generator=generator)
LABEL = torch.randint(-1, 3, (COUNT,), generator=generator)
THETA = torch.rand(COUNT, 6, generator=generator)
IMAGES = torch.rand(3, COUNT, 1, 24, 24, generator=generator)
LOG_Q = torch.randn(COUNT, 4, 16, generator=generator).log_softmax(-1)


def values_of(rank, world):
    """Return the values of all metrics of every ``world``-th example."""
    mine = slice(rank, None, world)
    metrics = {
        CodebookUsage(16): (CODES,),
        CodeStatistics(16, 4, 3, top_k=5): (CODES, LABEL),
        ProposalEntropy(4, 16): (LOG_Q,),
        TopicClusters(6, 3): (THETA, LABEL),
        GlyphDistance(): (*IMAGES, torch.arange(float(COUNT)), LABEL % 2),
    }
    values = {}
    for metric, data in metrics.items():
        for parts in zip(*(rows[mine].split(8) for rows in data), strict=True):
            metric.update(*parts)
        values |= {f"{type(metric).__name__}.{name}": value.item() for name, value in metric.compute().items()}
    drawn = GenerationMetrics("vgg")  # contains the sums of FrechetDistance
    drawn._loaded.append(Frozen(nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(512))))
    for kind in (0, 1):
        for part in IMAGES[kind][mine].split(7):
            drawn.update(part ** (1 + kind / 8), real=kind == 0)
    return values | {name: value.item() for name, value in drawn.compute().items()}


def test_two_processes_equal_one(tmp_path):
    whole = values_of(0, 1)
    first, second = on_two_ranks(lambda rank: values_of(rank, 2), tmp_path)
    assert first == second == pytest.approx(whole, rel=1e-5, abs=1e-6)
