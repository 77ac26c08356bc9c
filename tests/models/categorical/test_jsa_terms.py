"""The perceptual energy and the adversarial loss of models with categorical codes."""

import copy

import pytest
import torch
from torch import nn

from tests.helpers.grid import Data, fit, grid
from tests.helpers.models import assert_same_weights, build
from tests.helpers.toy import CODES, NUMBER, all_joints, images, parts, sharpened
from vqlab.losses.adversarial import ADVERSARIAL
from vqlab.models import JSA, DiscreteVAE, PosteriorSampler
from vqlab.nn import Gaussian, PatchGAN


class Brightness(nn.Module):
    """The difference of the mean brightness, in [-1, 1]."""

    name = "brightness"

    def forward(self, x_hat, x):
        return (x_hat.flatten(1).mean(1) - x.flatten(1).mean(1)).abs()


def test_energy_changes_posterior_but_not_bounds():
    model = sharpened(2, 1.5)
    x = images(model, 1, 3)
    with torch.no_grad():
        exact, plain = all_joints(model, x), model.nll(x.expand(64, -1, -1, -1), 2000).mean()
        means = model.decode(CODES)
        energy = 20 * 2 * (means.flatten(1).mean(1) - x.mean()).abs()
        posterior, tilted = exact.softmax(1)[0], (exact[0] - energy).softmax(0)
        assert (posterior - tilted).abs().sum() / 2 > 0.2
        model.latent.perceptual, model.latent.perceptual_weight = Brightness(), 20.0
        found = model.latent.joint_of_draws(x, CODES.flatten(1)[None])[0][0]
        torch.testing.assert_close(found, exact[0] - energy, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(all_joints(model, x), exact)
        assert model.nll(x.expand(64, -1, -1, -1), 2000).mean() == pytest.approx(plain.item(), abs=0.05)
        codes = model.sample_posterior(x.expand(30_000, -1, -1, -1), steps=80)
    drawn = torch.bincount((codes.flatten(1) * NUMBER).sum(1), minlength=64) / 30_000
    assert (drawn - tilted).abs().sum() / 2 < 0.03


@pytest.mark.parametrize("cls", [JSA, DiscreteVAE])
def test_energy_gradient_is_proportional_to_its_weight(cls):
    torch.manual_seed(0)
    model = build(cls, **parts(), **({"cache": False} if cls is JSA else {"estimator": "st_gumbel"}))
    model.latent.perceptual = Brightness()
    x = model.latent.observe(images(sharpened(5, 2.5), 8, 0))
    if cls is JSA:  # the energy also changes the chains, so all steps get the same one
        result = model.run_chains(x, model.latent.log_q(x).detach(), torch.arange(8))
        model.run_chains = lambda *args: (result[0], dict(result[1]))
    gradients = []
    for weight in (0.0, 1.0, 2.0):
        model.latent.perceptual_weight = weight
        model.zero_grad()
        torch.manual_seed(1)
        model.compute_loss(x, torch.arange(8)).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.latent.decoder.parameters()]))
    first, second = gradients[1] - gradients[0], gradients[2] - gradients[0]
    assert first.norm() > 0.01 * gradients[0].norm()
    torch.testing.assert_close(second, 2 * first, atol=1e-5, rtol=1e-3)


def test_adversarial_step_equals_plain_pytorch():
    discriminator = PatchGAN(1, 8, num_layers=2, norm="none")
    model = grid(likelihood=Gaussian(0.3), discriminator=discriminator, disc_weight=0.5, disc_start=0, disc_lr=1e-3)
    plain, gradients = copy.deepcopy(model), {}
    model.on_before_optimizer_step = lambda _: gradients.update(
        (n, p.grad.clone()) for n, p in model.named_parameters()
    )
    fit(model, max_steps=1)
    batch = next(iter(Data().train_dataloader()))
    x, index = batch["image"], batch["index"]
    plain.sampler = PosteriorSampler(cache=False)  # the cache is still empty
    output = plain.compute_loss(x, index)  # the same draws, a function of seed, step and image
    x_hat, discriminator = plain.latent.output(output.codes), plain.adversarial.discriminator
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    ADVERSARIAL["hinge"].discriminator(discriminator(x), discriminator(x_hat.detach())).backward()
    optimizer.step()
    plain.zero_grad()
    last = plain.latent.decoder.head[0].weight
    distortion = ((x_hat - x).square().flatten(1).sum(1) / (2 * 0.3**2)).mean()
    g_loss = -discriminator(x_hat).mean()
    norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (distortion, g_loss)]
    (output.loss + 0.5 * norms[0] / (norms[1] + 1e-4) * g_loss).backward()
    assert_same_weights(model.adversarial.discriminator, discriminator, rtol=1e-4, atol=1e-6)
    for name, parameter in plain.named_parameters():
        if not name.startswith("adversarial"):
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-4)
