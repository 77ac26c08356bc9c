"""Batch-norm statistics over ranks."""

from types import SimpleNamespace

import torch
from torch import nn

from tests.helpers.two_ranks import on_two_ranks
from vqlab.callbacks.batch_statistics import BatchStatistics


def statistics(rank, world_size=2):
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    model(torch.randn(8, 1, 4, 4) + rank)
    before = model[1].running_mean.clone(), model[1].running_var.clone()
    BatchStatistics().on_train_batch_end(SimpleNamespace(world_size=world_size), model, None, None, 0)
    return [*before, model[1].running_mean, model[1].running_var]


def test_both_ranks_get_the_mean(tmp_path):
    one, other = on_two_ranks(statistics, tmp_path)
    for name in (0, 1):
        assert not torch.equal(one[name], other[name])
        expected = (one[name] + other[name]) / 2
        torch.testing.assert_close(one[name + 2], expected)
        assert torch.equal(one[name + 2], other[name + 2])


def test_alone_nothing_changes():
    mean, var, mean_after, var_after = statistics(0, world_size=1)
    assert torch.equal(mean, mean_after)
    assert torch.equal(var, var_after)
