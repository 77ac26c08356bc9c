"""Noise and temperature of GumbelQuantizer; test_family_gradients has the formulas, test_distributed split batches."""

import pytest
import torch

from tests.helpers.family import rand64 as rand
from vqlab.nn import Anneal
from vqlab.quantizers import GumbelQuantizer

K, D = 7, 3


def make(*args, **kwargs):
    return GumbelQuantizer(K, D, *args, **kwargs).double()


@pytest.mark.parametrize(("batch", "positions"), [(20_000, 1), (100, 200)])
@pytest.mark.parametrize("by_sample", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_code_frequencies_equal_the_softmax_of_the_logits(by_sample, batch, positions, temperature):
    quantizer = GumbelQuantizer(K, D, temperature=temperature)
    row = rand(D, seed=7).float()
    quantizer.sample_index = torch.arange(batch) if by_sample else None
    indices = quantizer(row[None, :, None].expand(batch, D, positions)).indices
    expected = 20_000 * quantizer.logits(row).softmax(0).detach()
    assert expected.min() > 500
    chi_square = ((torch.bincount(indices.flatten(), minlength=K) - expected).square() / expected).sum()
    assert chi_square < 33  # exceeded in 1 of 100,000 experiments with 6 degrees of freedom
    first, second = indices.flatten()[:-1], indices.flatten()[1:]
    assert (first == second).float().mean().item() == pytest.approx((expected / 20_000).square().sum().item(), abs=0.02)


def test_eval_mode_uses_the_most_likely_code():
    quantizer = make(temperature=5.0, straight_through=False).eval()
    z = rand(60, D, seed=9)
    for sample_index in (None, torch.arange(60)):
        quantizer.sample_index = sample_index
        state = torch.random.get_rng_state()
        out = quantizer(z)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(out.indices, quantizer.logits(z).argmax(1))
        assert torch.equal(out.quantized, quantizer.codebook[out.indices])
        assert out.stats is None
    assert len(out.indices.unique()) > 2


def test_temperature_follows_the_step_count(monkeypatch):
    anneal = Anneal(2.0, 0.5, total_steps=4, warmup_steps=1, kind="linear")
    noise, z = rand(20, K, seed=10), rand(20, D, seed=11)
    quantizer = make(temperature=anneal, straight_through=False)
    monkeypatch.setattr(quantizer, "_noise", lambda *args: noise)
    for step, temperature in enumerate([2.0, 2.0, 1.5, 1.0, 0.5, 0.5]):
        assert quantizer.steps == step
        assert quantizer.temperature.item() == pytest.approx(temperature)
        mixed = ((quantizer.logits(z) + noise) / temperature).softmax(1) @ quantizer.codebook
        torch.testing.assert_close(quantizer(z).quantized, mixed, rtol=1e-6, atol=1e-6)
    again = GumbelQuantizer(K, D, temperature=anneal)
    again.load_state_dict(quantizer.state_dict())
    assert again.steps == 6
    quantizer.eval()(z)
    assert quantizer.steps == 6


@pytest.mark.parametrize("by_sample", [True, False])
def test_noise_differs_by_step_sample_and_position(by_sample):
    quantizer = make(straight_through=False)
    quantizer.sample_index = torch.arange(6) if by_sample else None
    z = torch.ones(6, D, 8).double()
    outs = torch.cat([quantizer(z).quantized.movedim(1, -1).reshape(-1, D) for _ in range(3)])
    assert len(outs.unique(dim=0)) == 3 * 6 * 8


def test_noise_depends_on_seed_and_step_only():
    quantizer, z = make(), torch.ones(200, D).double()
    quantizer.sample_index, quantizer.auto_update = torch.arange(200), False

    def draw(seed, steps):
        quantizer.seed = seed
        quantizer.steps.fill_(steps)
        return quantizer(z).indices

    first = draw(1, 5)
    torch.rand(9)  # changes torch's generator
    assert torch.equal(draw(1, 5), first)
    assert not torch.equal(draw(1, 6), first)
    assert not torch.equal(draw(2, 5), first)
