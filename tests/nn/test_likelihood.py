"""Likelihoods against torch.distributions, and the rules for sigma."""

import itertools

import pytest
import torch

from vqlab.nn import Anneal, Bernoulli, Gaussian, ValueRange

SIGNED, UNIT = ValueRange("signed"), ValueRange("unit")


@pytest.mark.parametrize("sigma", [0.02, 0.5, 3.0])
def test_gaussian_equals_torch(sigma):
    x, output = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)
    expected = torch.distributions.Normal(output.double(), sigma).log_prob(x.double()).sum((1, 2, 3))
    found = Gaussian(sigma).log_prob(x, output)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-3)


def test_gaussian_is_precise_for_close_outputs_and_large_sums():
    """At sigma 0.02 a sum is about 1e5 nats; the difference of one pixel must survive."""
    x = torch.rand(1, 3, 32, 32)
    output = x + 0.3 * torch.randn_like(x)
    other = output.clone()
    other[0, 0, 0, 0] += 0.01
    found = Gaussian(0.02).log_prob(x, other) - Gaussian(0.02).log_prob(x, output)
    difference = (other.double() - x).square() - (output.double() - x).square()
    assert found.item() == pytest.approx(-difference.sum().item() / (2 * 0.02**2), abs=0.1)


def test_bernoulli_equals_torch_and_binarises_at_half():
    image, output = torch.rand(4, 1, 6, 6) * 2 - 1, 3 * torch.randn(4, 1, 6, 6)
    x = Bernoulli().observe(image, SIGNED)
    assert torch.equal(x, (image > 0).float())
    expected = torch.distributions.Bernoulli(logits=output.double()).log_prob(x.double()).sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli().log_prob(x, output).double(), expected, rtol=1e-6, atol=1e-5)
    assert torch.equal(Bernoulli().image(x, SIGNED).unique(), torch.tensor([-1.0, 1.0]))


def test_optimal_sigma_is_the_root_of_the_mean_squared_error():
    gaussian = Gaussian("optimal", initial=0.7)
    assert gaussian.sigma.item() == pytest.approx(0.7)
    errors = torch.rand(10)
    for error in errors:
        gaussian.update(error)
    assert gaussian.sigma.item() == pytest.approx(errors.mean().sqrt().item(), abs=1e-6)
    for _ in range(200):
        gaussian.update(torch.tensor(0.01))
    assert gaussian.sigma.item() == pytest.approx(0.1, abs=1e-6)  # old batches lose their weight


@pytest.mark.parametrize("value_range", [SIGNED, UNIT, ValueRange("standardized", (0.5, 0.4), (0.2, 0.3))])
def test_bits_per_dim_do_not_depend_on_the_value_range(value_range):
    """A uniform density of dequantized images has 8 bits per value."""
    image = torch.randint(256, (50, 2, 8, 8)) / 255
    x = value_range.encode(image)
    dequantized = value_range.decode(Gaussian(1.0).dequantize(x, value_range)) * 255
    assert (dequantized - image * 255).abs().max() <= 0.501
    width = (value_range.encode(torch.ones(2, 1, 1)) - value_range.encode(torch.zeros(2, 1, 1))) * 256 / 255
    nll = width.log().mean() * 128  # of the uniform density
    assert Gaussian(1.0).bits_per_dim(nll, 128, value_range).item() == pytest.approx(8, abs=1e-4)


def test_dequantized_gaussian_bounds_the_probability_of_the_rounded_value():
    x, output, sigma = torch.tensor(100 / 127.5 - 1).view(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 0.3
    gaussian, half = Gaussian(sigma), 1 / 255
    normal = torch.distributions.Normal(0.0, sigma)
    exact = -(normal.cdf(x + half) - normal.cdf(x - half)).log2().item()
    many = torch.cat([gaussian.dequantize(x, SIGNED) for _ in range(4000)])
    nll = -gaussian.log_prob(many, output.expand_as(many)).mean()
    assert gaussian.bits_per_dim(nll, 1, SIGNED).item() == pytest.approx(exact, abs=2e-3)


def test_optimal_sigma_maximises_the_likelihood():
    x, output = torch.randn(8, 1, 10, 10), torch.zeros(8, 1, 10, 10)
    best = (x - output).square().mean().sqrt().item()
    low, middle, high = (Gaussian(best * factor).log_prob(x, output).mean() for factor in (0.9, 1.0, 1.1))
    assert middle > max(low, high)


def test_learned_sigma_has_a_gradient_to_the_optimal_one():
    gaussian, x = Gaussian("learned", initial=0.5), torch.randn(4, 1, 20, 20)
    optimizer = torch.optim.Adam(gaussian.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-gaussian.log_prob(x, torch.zeros_like(x)).mean() / 400).backward()
        optimizer.step()
    assert gaussian.sigma.item() == pytest.approx(x.square().mean().sqrt().item(), rel=1e-2)


def test_annealed_sigma_follows_the_counted_steps():
    gaussian, seen = Gaussian(Anneal(0.2, 0.02, total_steps=50, warmup_steps=10, hold_steps=10)), []
    for _ in range(60):
        seen.append(gaussian.sigma.item())
        gaussian.update(torch.tensor(9.0))
    assert seen[:11] == pytest.approx([0.2] * 11)
    assert seen[40:] == pytest.approx([0.02] * 20)
    assert all(a > b for a, b in itertools.pairwise(seen[10:41]))
