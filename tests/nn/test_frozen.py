"""Helper networks are used, not trained, and not saved."""

import copy

import pytest
import torch
from torch import nn

from vqlab.nn.frozen import Frozen


def features():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.features = Frozen(features())

    def forward(self, x):
        return self.features(self.head(x)).square().mean()


def test_it_stays_in_eval_mode_and_without_gradients():
    parent = Parent().train()
    x = torch.randn(8, 4)
    net = parent.features.net
    assert parent.features.training
    assert not any(part.training for part in net.modules())
    assert torch.equal(parent.features(x), parent.features(x)), "dropout is off"
    statistics = net[1].running_mean.clone()
    parent(x).backward()
    assert torch.equal(net[1].running_mean, statistics)
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert parent.head.weight.grad.abs().sum() > 0, "the gradient flows through it"


def test_a_parent_loads_strictly_and_keeps_the_nets_own_weights():
    source, target = Parent(), Parent()
    own = copy.deepcopy(target.features.net)
    state = source.state_dict()
    target.load_state_dict(state)
    assert list(state) == ["head.weight", "head.bias"], "the caller's dict is left alone"
    assert torch.equal(target.head.weight, source.head.weight)
    for name, value in own.state_dict().items():
        assert torch.equal(target.features.net.state_dict()[name], value)
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        target.load_state_dict({"head.weight": state["head.weight"]})
    with pytest.raises(RuntimeError, match="unknown"):
        target.load_state_dict({**state, "unknown": state["head.weight"]})


def test_what_nothing_else_could_bring_back_is_saved():
    source, target = (Frozen(features(), saved=True) for _ in range(2))
    assert {name.partition(".")[0] for name in source.state_dict()} == {"net"}
    target.load_state_dict(source.state_dict())
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())
    assert not any(p.requires_grad for p in target.parameters())
    assert not target.train().net.training
