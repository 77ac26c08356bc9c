"""Helper networks are used, not trained, and not saved."""

import copy

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from vqlab.callbacks.ema import EMA
from vqlab.nn.frozen import Frozen


def features():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


class Parent(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.features = Frozen(features())

    def training_step(self, batch, batch_idx):
        return self.features(self.head(batch)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def test_it_stays_in_eval_mode_and_without_gradients():
    parent = Parent().train()
    x = torch.randn(8, 4)
    net = parent.features.net
    assert parent.features.training
    assert not any(part.training for part in net.modules())
    assert torch.equal(parent.features(x), parent.features(x)), "dropout is off"
    statistics = net[1].running_mean.clone()
    parent.training_step(x, 0).backward()
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


def test_nested():
    inner = nn.Sequential(nn.Linear(2, 2), Frozen(nn.Linear(2, 2)))
    outer = nn.ModuleDict({"a": nn.Linear(2, 2), "b": Frozen(inner), "c": Frozen(Frozen(nn.Dropout()))}).train()
    assert list(outer.state_dict()) == ["a.weight", "a.bias"]
    before = inner[1].net.weight.clone()
    outer.load_state_dict(outer.state_dict())
    assert torch.equal(inner[1].net.weight, before)
    assert not outer["c"].net.net.training


def test_a_deep_copy_keeps_its_own_weights():
    parent = Parent()
    other = copy.deepcopy(parent)
    with torch.no_grad():
        other.features.net[0].weight.fill_(7.0)
    other.load_state_dict(parent.state_dict())
    assert other.features.net[0].weight.eq(7.0).all(), "the original's weights were loaded into the copy"
    assert parent.features.net[0].weight.ne(7.0).all()
    assert list(other.state_dict()) == ["head.weight", "head.bias"]
    assert not other.train().features.net.training


@pytest.mark.parametrize("callback", [lambda: EMAWeightAveraging(decay=0.5), lambda: EMA(decay=0.5)])
def test_with_averaged_weights(callback):
    parent = Parent()
    net, start = copy.deepcopy(parent.features.net), copy.deepcopy(parent.head)
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    loader = DataLoader(torch.randn(12, 4), batch_size=4)
    trainer = lightning.Trainer(max_steps=3, callbacks=[callback()], enable_checkpointing=False, **settings)
    trainer.fit(parent, loader)
    trainer.save_checkpoint("a.ckpt")
    checkpoint = torch.load("a.ckpt", weights_only=True)
    assert list(checkpoint["state_dict"]) == list(checkpoint["current_model_state"]) == ["head.weight", "head.bias"]
    assert parent.head.weight.ne(start.weight).any()
    for name, value in net.state_dict().items():
        assert torch.equal(parent.features.net.state_dict()[name], value)

    again, resumed = (
        Parent(),
        lightning.Trainer(max_steps=5, callbacks=[callback()], enable_checkpointing=False, **settings),
    )
    resumed.fit(again, loader, ckpt_path="a.ckpt")
    assert resumed.global_step == 5


def test_what_nothing_else_could_bring_back_is_saved():
    source, target = (Frozen(features(), saved=True) for _ in range(2))
    assert {name.partition(".")[0] for name in source.state_dict()} == {"net"}
    target.load_state_dict(source.state_dict())
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())
    assert not any(p.requires_grad for p in target.parameters())
    assert not target.train().net.training
