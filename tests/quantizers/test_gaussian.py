"""GQ: the divergence, the constraint, the choice of codes, and codebooks of any size after training."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from tests.helpers.family import rand, rand64
from vqlab import GaussianQuantizer
from vqlab.quantizers.gaussian import best_code, kl_bits, normal_codes
from vqlab.serialization import from_config, to_config


def test_divergence_is_that_of_torch():
    mean, log_variance = 3 * rand64(50, 5, seed=0), 4 * rand64(50, 5, seed=1)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1) / math.log(2)
    torch.testing.assert_close(kl_bits(mean, log_variance), expected)


@pytest.mark.parametrize("seed", range(3))
def test_code_has_the_largest_ratio_of_posterior_to_prior(seed):
    mean, log_variance = rand64(300, 6, seed=seed), rand64(300, 6, seed=seed + 10) - 1
    codes = normal_codes(64, 6, seed).double()
    found = best_code(mean, log_variance, codes)
    for row, spread, index in zip(mean, (log_variance / 2).exp(), found, strict=True):
        ratios = (Normal(row, spread).log_prob(codes) - Normal(0.0, 1.0).log_prob(codes)).sum(1)
        assert index == ratios.argmax()


def test_codebook_is_normal_seeded_and_nested():
    codes = normal_codes(20_000, 8, seed=3)
    assert codes.mean().abs() < 0.01
    assert codes.std() == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(torch.corrcoef(codes.T), torch.eye(8), rtol=0, atol=0.03)
    assert codes.abs().max() < 6
    assert torch.equal(normal_codes(500, 8, seed=3), codes[:500])
    assert not torch.isclose(normal_codes(500, 8, seed=4), codes[:500]).any(1).all()


@pytest.mark.parametrize(("num", "dim"), [(512, 9), (4096, 12)])
def test_normal_data_use_all_codes(num, dim):
    """The best Gaussian channel at log2 K bits: s^2 = 2^(-2 log2(K) / D), means of variance 1 - s^2."""
    variance = 2 ** (-2 * math.log2(num) / dim)
    mean = rand(20 * num, dim, seed=0, scale=math.sqrt(1 - variance))
    indices = best_code(mean, torch.full_like(mean, math.log(variance)), normal_codes(num, dim, seed=0))
    probs = torch.bincount(indices, minlength=num) / len(indices)
    assert (probs > 0).float().mean() >= 0.99
    assert torch.special.entr(probs).sum().exp() > 0.85 * num


def test_training_reaches_the_target_divergence():
    torch.manual_seed(0)
    encoder, decoder, quantizer = nn.Linear(4, 4), nn.Linear(4, 4), GaussianQuantizer(64, 4, kl_weight=0.02)
    weights = [p for part in (encoder, decoder, quantizer) for p in part.parameters()]
    optimizer, errors = torch.optim.Adam(weights, 0.01), []
    for step in range(600):
        x = rand(256, 4, seed=step)
        out = quantizer(encoder(x))
        errors.append((decoder(out.quantized) - x).square().mean())
        optimizer.zero_grad()
        (errors[-1] + out.loss).backward()
        optimizer.step()
    with torch.no_grad():
        mean = encoder(rand(2000, 4, seed=1000))
        bits = kl_bits(mean, quantizer.log_variance(mean))
        quantized = decoder(quantizer.eval()(mean).quantized)
    assert bits.mean() == pytest.approx(6, abs=0.3)
    assert (bits - 6).abs().median() < 1
    assert (quantized - rand(2000, 4, seed=1000)).square().mean() < 0.5  # the best code at 6 bits has 0.125


def test_number_of_codes_may_change_after_training():
    quantizer = GaussianQuantizer(16, 4).eval()
    z, few = rand(100, 4, seed=1), quantizer.codebook.clone()
    before = quantizer(z)
    assert "codebook" not in quantizer.state_dict()
    quantizer.num_embeddings = 1024
    assert quantizer.num_embeddings == 1024
    assert torch.equal(quantizer.codebook[:16], few)
    after = quantizer(z)
    assert after.indices.max() > 16
    assert torch.equal(quantizer.decode(after.indices), after.quantized)
    assert torch.equal(after.loss.isfinite(), before.loss.isfinite())

    again = from_config(to_config(quantizer)).eval()
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again.encode(z), after.indices)
    quantizer.num_embeddings = 16
    assert torch.equal(quantizer.encode(z), before.indices)


def rows_with(bits, dim=4):
    """Return means (N, D) whose divergence at variance 1 is ``bits``."""
    return torch.tensor(bits)[:, None].mul(2 * math.log(2) / dim).sqrt().expand(-1, dim).clone()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ([4.0, 4.1], [1.01, 1.0, 1.0]),  # the mean is above 4 bits, no row is outside the tolerance
        ([3.8, 4.0], [1 / 1.01, 1.0, 1.0]),
        ([4.0, 9.0], [1.01, 1.01, 1.0]),
        ([0.1, 4.0], [1 / 1.01, 1.0, 1 / 1.01]),
        ([0.1, 9.0], [1.01, 1.01, 1 / 1.01]),
    ],
)
def test_multipliers_follow_the_divergences(bits, expected):
    quantizer = GaussianQuantizer(16, 4, kl_weight=1e-3)
    for parameter in quantizer.log_variance[-1].parameters():
        nn.init.zeros_(parameter)
    out = quantizer(rows_with(bits))
    assert out.terms["kl_bits"].item() == pytest.approx(sum(bits) / 2, rel=1e-5)
    assert out.loss.item() == pytest.approx(1e-3 * sum(bits) / 2, rel=1e-5)  # of the multipliers before
    torch.testing.assert_close(quantizer.multipliers, torch.tensor(expected))


@pytest.mark.parametrize("by_sample", [True, False])
@torch.no_grad()
def test_training_output_is_a_sample_of_the_posterior(by_sample):
    quantizer = GaussianQuantizer(16, 4)
    quantizer.sample_index = torch.arange(500) if by_sample else None
    z = rand(500, 4, 20, seed=0)
    rows = z.movedim(1, -1).reshape(-1, 4)
    spread = (quantizer.log_variance(rows) / 2).exp()
    noise = [(quantizer(z).quantized.movedim(1, -1).reshape(-1, 4) - rows) / spread for _ in range(2)]
    assert not torch.isclose(*noise, atol=1e-3).all(1).any()
    for drawn in noise:
        assert drawn.mean().abs() < 0.02
        assert drawn.std() == pytest.approx(1, abs=0.02)
        torch.testing.assert_close(torch.corrcoef(drawn.T), torch.eye(4), rtol=0, atol=0.05)
