"""The gradient of an unnormalised energy by negative samples, against a partition function that can be summed."""

import math

import pytest
import torch
from torch import nn

from tests.helpers.models import build
from tests.helpers.refusal import refused
from tests.helpers.toy import CODES, NUMBER, VALUES, VARIABLES
from vqlab.models import JSA, NegativeSampler, PosteriorSampler
from vqlab.models.categorical.negatives import NegativeChains
from vqlab.nn import Bernoulli, Gaussian, MLPDecoder, MLPEncoder

SIZE, SIGMA, WEIGHT = 2, 0.8, 30.0
NOISE = torch.linspace(-6, 6, 401)


class Brightness(nn.Module):
    """The squared difference of the squashed mean brightness."""

    name = "brightness"

    def forward(self, x_hat, x):
        return (x_hat.flatten(1).mean(1).mul(2).tanh() - x.flatten(1).mean(1).mul(2).tanh()).square()


def model(**options):
    """A JSA with 64 codes and images of 2 x 2 values, whose energy contains the brightness."""
    torch.manual_seed(0)
    networks = {"encoder": MLPEncoder(1, SIZE, (16,), 12), "decoder": MLPDecoder(1, SIZE, (16,), 12)}
    shape = {"num_embeddings": VALUES, "num_latents": VARIABLES, "channels": 1, "image_size": SIZE}
    jsa = build(
        JSA, **networks, **shape, prior="factorized", likelihood=Gaussian(SIGMA), value_range="signed", **options
    )
    with torch.no_grad():
        for weight in jsa.latent.decoder.parameters():
            weight.mul_(2)
        jsa.latent.prior.logits.normal_()
    jsa.latent.perceptual, jsa.latent.perceptual_weight = Brightness(), WEIGHT
    return jsa.eval()


def weights_of_noise(jsa):
    """ln p(h) p(noise) exp(-energy), (64, 401); the energy depends on the mean of x alone, centre + noise sigma / 2."""
    latent = jsa.latent
    centre = latent.output(CODES.flatten(1)).flatten(1).mean(1, keepdim=True)
    energy = WEIGHT * ((2 * (centre + NOISE * SIGMA / SIZE)).tanh() - (2 * centre).tanh()).square()
    log_normal = -NOISE.square() / 2 - math.log(2 * math.pi) / 2 + (NOISE[1] - NOISE[0]).log()
    return latent.log_prior(CODES.flatten(1))[:, None] + log_normal - energy


@torch.no_grad()
def exact_draws(jsa, num):
    """Draw images and codes from the model, as the content of a replay buffer."""
    drawn = torch.multinomial(weights_of_noise(jsa).flatten().softmax(0), num, replacement=True)
    codes, mean = CODES.flatten(1)[drawn // len(NOISE)], NOISE[drawn % len(NOISE)] / SIZE
    noise = torch.randn(num, 1, SIZE, SIZE)
    noise += (mean - noise.flatten(1).mean(1))[:, None, None, None]
    known = torch.ones(num, dtype=torch.uint8)
    return {"x": jsa.latent.output(codes) + SIGMA * noise, "codes": codes, "known": known, "next": torch.tensor(0)}


def of_decoder(jsa):
    networks, tables, _ = jsa.latent.parameter_groups()
    return torch.cat([p.grad.flatten() for p in [*networks, *tables]])


@pytest.mark.parametrize(
    ("kernel", "start", "rounds"),
    [
        *((kernel, 0, 12) for kernel in ("mis", "ncg")),
        pytest.param("mis", 250, 100, marks=pytest.mark.slow),  # from draws without the energy
    ],
)
def test_gradient_is_that_of_the_exact_likelihood(kernel, start, rounds):
    """Of ln Z; and the codes of the chains follow p(h) Z(h) / Z, not the prior."""
    jsa = model(sampler=PosteriorSampler(kernel=kernel, whole_steps=0, block_size=2))
    if kernel == "ncg":
        jsa.latent.step_size.fill_(30.0)
    log_z = weights_of_noise(jsa).logsumexp(1)
    log_z.logsumexp(0).backward()
    exact, expected = of_decoder(jsa), log_z.detach().softmax(0)
    prior = jsa.latent.log_prior(CODES.flatten(1)).detach().exp()
    assert (prior - expected).abs().sum() / 2 > 0.08

    size = 3000 if start else 10_000
    settings = NegativeSampler(size, langevin_steps=3, step_size=0.4, replay_probability=1.0)
    chains, found = NegativeChains(settings, jsa.latent), torch.zeros(64)
    if not start:
        chains.fill(exact_draws(jsa, size))
    jsa.zero_grad()
    for step in range(start + rounds):
        x, codes, terms = chains.draw(size, torch.tensor(step))
        if step >= start:
            found += torch.bincount((codes * NUMBER).sum(1), minlength=64)
            jsa.latent.joint(x, codes, torch.arange(size))[0].mean().div(rounds).backward()
    assert 0.3 < terms["langevin_accept_rate"] < 0.95
    assert (found / found.sum() - expected).abs().sum() / 2 < 0.02
    sampled = of_decoder(jsa)
    assert torch.cosine_similarity(sampled, exact, dim=0) >= 0.99
    assert (sampled - exact).norm() < 0.15 * exact.norm()


def test_loss_has_the_gradient_of_the_positive_and_the_negative_phase():
    jsa = model(cache=False, negatives=NegativeSampler(50, langevin_steps=1))
    x = torch.randn(8, 1, SIZE, SIZE) * 0.5
    gradients = {}
    for phase in ("positive", "both"):
        if phase == "both":
            jsa.negative_chains = NegativeChains(jsa.negatives, jsa.latent)
        jsa.zero_grad()
        jsa.compute_loss(x, torch.arange(8)).loss.backward()
        gradients[phase] = of_decoder(jsa)
    jsa.zero_grad()
    drawn = jsa.negative_chains.x[:8], jsa.negative_chains.codes[:8]
    jsa.latent.joint(*drawn, torch.arange(8))[0].mean().backward()
    torch.testing.assert_close(gradients["both"], gradients["positive"] + of_decoder(jsa), rtol=1e-3, atol=1e-4)


def test_part_of_the_chains_starts_again_and_the_others_continue():
    jsa = model()
    chains = NegativeChains(NegativeSampler(400, langevin_steps=1, step_size=1e-4, replay_probability=0.75), jsa.latent)
    first, _, _ = chains.draw(400, torch.tensor(0))
    second, _, _ = chains.draw(400, torch.tensor(1))
    moved = (second - first).abs().flatten(1).amax(1) > 0.01
    assert moved.float().mean() == pytest.approx(0.25, abs=0.07)
    third, _, _ = chains.draw(100, torch.tensor(2))
    assert chains.next == 100
    assert (chains.x[100:] == second[100:]).all()
    assert (chains.x[:100] == third).all()


def test_chains_are_stored_and_restored():
    jsa = model()
    settings = NegativeSampler(12, langevin_steps=1)
    chains, copy = NegativeChains(settings, jsa.latent), NegativeChains(settings, jsa.latent)
    chains.draw(5, torch.tensor(0))
    copy.fill(chains.whole())
    for ours, theirs in zip(chains.draw(5, torch.tensor(1))[:2], copy.draw(5, torch.tensor(1))[:2], strict=True):
        assert torch.equal(ours, theirs)
    with refused("negatives of 12 x 1 x 2 x 2", "got 10 x 1 x 2 x 2"):
        NegativeChains(NegativeSampler(10), jsa.latent).fill(chains.whole())
    with refused("negatives.size must be at least the batch of 13, got 12"):
        chains.draw(13, torch.tensor(2))


@pytest.mark.parametrize(("likelihood", "word"), [(Bernoulli(), "Bernoulli"), (Gaussian("optimal"), "optimal")])
def test_unfit_likelihoods_are_refused(likelihood, word):
    with refused("negatives need", word):
        build(JSA, channels=1, image_size=16, likelihood=likelihood, negatives=NegativeSampler())
