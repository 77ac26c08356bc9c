"""The adaptive weight of linearized losses against gradients at the last layer in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqlab.losses.adversarial import adaptive_weight, linearized


class Setting:
    """A decoder, a discriminator and the two losses of one batch."""

    def __init__(self, last=None):
        self.conv = nn.Conv2d(6, 3, 3, padding=1)
        self.decoder = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.SiLU(), self.conv, last or nn.Identity())
        self.discriminator = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, 1, 1))
        self.z, self.x = torch.randn(4, 4, 8, 8), torch.randn(4, 3, 8, 8)

    def losses(self, x_hat):
        return F.l1_loss(x_hat, self.x), -self.discriminator(x_hat).mean()

    def weight(self, **limits):
        x_hat = self.decoder(self.z)
        rec_loss, adv_loss = (linearized(loss, x_hat) for loss in self.losses(x_hat))
        return adaptive_weight(rec_loss, adv_loss, self.conv.weight, **limits)

    def by_definition(self, eps=1e-4):
        """|grad_W L_rec| / (|grad_W L_adv| + eps), in float64 and without linearization."""
        double = copy.deepcopy(self)
        double.decoder.double(), double.discriminator.double()
        double.z, double.x = double.z.double(), double.x.double()
        losses = double.losses(double.decoder(double.z))
        norms = [torch.autograd.grad(loss, double.conv.weight, retain_graph=True)[0].norm() for loss in losses]
        return (norms[0] / (norms[1] + eps)).item()


@pytest.mark.parametrize("last", [nn.Identity, nn.Tanh])
@pytest.mark.parametrize("eps", [1e-4, 0.1])
def test_weight_equals_its_definition(last, eps):
    setting = Setting(last())
    weight = setting.weight(eps=eps)
    assert weight.item() == pytest.approx(setting.by_definition(eps), rel=1e-5)
    assert not weight.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert setting.weight(eps=eps).item() == pytest.approx(weight.item(), rel=0.05)


@pytest.mark.parametrize(("rec", "adv", "expected"), [(0, 0, 0), (1, 0, 1e4), (1e-30, 1e-30, 0), (1e15, 1e-30, 1e4)])
def test_weight_is_bounded_and_finite_for_vanishing_gradients(rec, adv, expected):
    setting = Setting()
    x_hat = setting.decoder(setting.z)
    gradient = torch.randn_like(x_hat)
    losses = (scale * (x_hat * gradient).sum() for scale in (rec, adv))
    assert adaptive_weight(*losses, setting.conv.weight).item() == pytest.approx(expected, abs=1e-20)


def test_linearized_loss_has_the_value_and_gradient_of_the_loss():
    setting = Setting(nn.Tanh())
    x_hat = setting.decoder(setting.z)
    losses = setting.losses(x_hat)
    linear = [linearized(loss, x_hat) for loss in losses]
    (linear[0] + 0.3 * linear[1]).backward()
    assert all(p.grad is None for p in setting.discriminator.parameters())
    again = setting.losses(setting.decoder(setting.z))
    torch.testing.assert_close(linear, list(again))
    expected = torch.autograd.grad(again[0] + 0.3 * again[1], list(setting.decoder.parameters()))
    for parameter, wanted in zip(setting.decoder.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)
