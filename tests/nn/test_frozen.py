"""Frozen networks are not trained and not saved."""

import copy

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from vqlab.callbacks import EMA
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


def test_frozen_net_stays_in_eval_mode_without_gradients():
    parent = Parent().train()
    x = torch.randn(8, 4)
    net = parent.features.net
    assert parent.features.training
    assert not any(part.training for part in net.modules())
    assert torch.equal(parent.features(x), parent.features(x))
    statistics = net[1].running_mean.clone()
    parent(x).backward()
    assert torch.equal(net[1].running_mean, statistics)
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert parent.head.weight.grad.abs().sum() > 0


def test_strict_loading_keeps_the_weights_of_the_frozen_net():
    source, target = Parent(), Parent()
    own, state = copy.deepcopy(target.features.net), source.state_dict()
    target.load_state_dict(state)
    assert list(state) == ["head.weight", "head.bias"]
    assert torch.equal(target.head.weight, source.head.weight)
    torch.testing.assert_close(target.features.net.state_dict(), own.state_dict(), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        target.load_state_dict({"head.weight": state["head.weight"]})
    with pytest.raises(RuntimeError, match="unknown"):
        target.load_state_dict({**state, "unknown": state["head.weight"]})


def test_saved_option_adds_the_weights_to_the_state_dict():
    source, target = (Frozen(features(), saved=True) for _ in range(2))
    assert {name.partition(".")[0] for name in source.state_dict()} == {"net"}
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert not any(p.requires_grad for p in target.parameters())
    assert not target.train().net.training


def test_nested_and_copied_frozen_nets():
    inner = nn.Sequential(nn.Linear(2, 2), Frozen(nn.Linear(2, 2)))
    outer = nn.ModuleDict({"a": nn.Linear(2, 2), "b": Frozen(inner), "c": Frozen(Frozen(nn.Dropout()))}).train()
    assert list(outer.state_dict()) == ["a.weight", "a.bias"]
    assert not outer["c"].net.net.training
    parent = Parent()
    other = copy.deepcopy(parent)
    nn.init.constant_(other.features.net[0].weight, 7.0)
    other.load_state_dict(parent.state_dict())
    assert other.features.net[0].weight.eq(7.0).all()
    assert parent.features.net[0].weight.ne(7.0).all()


class Trained(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Parent()

    def training_step(self, batch, batch_idx):
        return self.net(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.head.parameters(), lr=0.1)


@pytest.mark.parametrize("callback", [EMAWeightAveraging, EMA])
def test_weight_averaging_ignores_the_frozen_net(callback, tmp_path):
    module, loader = Trained(), DataLoader(torch.randn(12, 4), batch_size=4)
    net, start = copy.deepcopy(module.net.features.net), copy.deepcopy(module.net.head)

    options = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    first, second = (
        lightning.Trainer(max_steps=steps, callbacks=[callback(decay=0.5)], accelerator="cpu", **options)
        for steps in (3, 5)
    )
    first.fit(module, loader)
    first.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    names = ["net.head.weight", "net.head.bias"]
    assert list(checkpoint["state_dict"]) == list(checkpoint["current_model_state"]) == names
    assert module.net.head.weight.ne(start.weight).any()
    torch.testing.assert_close(module.net.features.net.state_dict(), net.state_dict(), rtol=0, atol=0)
    second.fit(Trained(), loader, ckpt_path=tmp_path / "a.ckpt")
    assert second.global_step == 5
