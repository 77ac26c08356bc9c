"""GumbelQuantizer against softmaxes written out in float64, and against the distribution that it is to draw from."""

import math

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.nn.anneal import Anneal
from vqlab.quantizers import chunks
from vqlab.quantizers.gumbel import GumbelQuantizer

K, D = 7, 3


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(*args, **kwargs):
    return GumbelQuantizer(K, D, *args, **kwargs).double()


def with_noise(quantizer, noise, monkeypatch):
    """Make ``noise`` (N, K) the noise that is drawn."""
    monkeypatch.setattr(quantizer, "_noise", lambda *args: noise)
    return quantizer


def leaves(quantizer, z):
    """What the gradient may reach, detached: z, W, b, codebook."""
    parts = (z, quantizer.logits.weight, quantizer.logits.bias, quantizer.codebook)
    return [part.detach().clone().requires_grad_() for part in parts]


def mixture(z, weight, bias, codebook, noise, temperature):
    """sum_k y_k e_k with y = softmax((logits + noise) / temperature), code by code."""
    scores = torch.stack([(z * w).sum(1) + b for w, b in zip(weight, bias, strict=True)], 1) + noise
    y = (scores / temperature).exp() / (scores / temperature).exp().sum(1, keepdim=True)
    return sum(y[:, k, None] * codebook[k] for k in range(K)), scores.argmax(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("straight_through", [True, False])
def test_value_and_gradients_of_the_output(temperature, straight_through, monkeypatch):
    noise, g = rand(20, K, seed=1), rand(20, D, seed=2)
    quantizer = make(temperature=temperature, straight_through=straight_through)
    with_noise(quantizer, noise, monkeypatch)
    z = rand(20, D, seed=3).requires_grad_()
    out = quantizer(z)
    expected = leaves(quantizer, z)
    mixed, drawn = mixture(*expected, noise, temperature)
    assert torch.equal(out.indices, drawn)
    if straight_through:
        assert torch.equal(out.quantized, quantizer.codebook[drawn])
    else:
        torch.testing.assert_close(out.quantized, mixed)
    out.quantized.backward(g)
    mixed.backward(g)
    one_hot = torch.zeros(20, K).double()
    one_hot[torch.arange(20), drawn] = 1
    if straight_through:  # the codes see the drawn ones alone
        expected[3].grad = one_hot.T @ g
    ours = (z, quantizer.logits.weight, quantizer.logits.bias, quantizer.codebook)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)


def test_cold_mixtures_are_the_drawn_codes_and_hot_ones_the_mean(monkeypatch):
    noise, z = rand(50, K, seed=4), rand(50, D, seed=5)
    cold = with_noise(make(temperature=1e-4, straight_through=False), noise, monkeypatch)
    out = cold(z)
    torch.testing.assert_close(out.quantized, cold.decode(out.indices), rtol=0, atol=1e-9)
    hot = with_noise(make(temperature=1e6, straight_through=False), noise, monkeypatch)
    torch.testing.assert_close(hot(z).quantized, hot.codebook.mean(0).expand(50, D), rtol=0, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_loss_is_the_divergence_from_the_uniform_distribution(training, kl_weight):
    quantizer = make(kl_weight).train(training)
    z = rand(4, D, 5, seed=6).requires_grad_()
    out = quantizer(z)
    out.loss.backward()
    expected = leaves(quantizer, z.detach().movedim(1, -1).reshape(-1, D))
    probs = (expected[0] @ expected[1].T + expected[2]).exp()
    probs = probs / probs.sum(1, keepdim=True)
    kl = sum(p * (p / (1 / K)).log() for p in probs.unbind(1)).mean()
    (kl_weight * kl).backward()
    assert out.terms.keys() == {"kl"}
    assert not out.terms["kl"].requires_grad
    torch.testing.assert_close(out.terms["kl"], kl.detach())
    torch.testing.assert_close(out.loss, kl_weight * kl)
    torch.testing.assert_close(z.grad.movedim(1, -1).reshape(-1, D), expected[0].grad, rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(quantizer.logits.weight.grad, expected[1].grad, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(("batch", "positions"), [(20_000, 1), (100, 200)])
@pytest.mark.parametrize("by_sample", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_codes_are_drawn_from_the_softmax_of_the_logits(by_sample, batch, positions, temperature):
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


def test_the_noise_of_a_sample_does_not_depend_on_its_batch():
    quantizer = make(straight_through=False)
    quantizer.auto_update = False
    z = rand(10, D, 4, 5, seed=8)
    quantizer.sample_index = torch.arange(10) + 40
    whole = quantizer(z)
    quantizer.sample_index = torch.tensor([47, 42])
    part = quantizer(z[[7, 2]])
    assert torch.equal(part.indices, whole.indices[[7, 2]])
    torch.testing.assert_close(part.quantized, whole.quantized[[7, 2]], rtol=0, atol=1e-14)


@pytest.mark.parametrize("by_sample", [True, False])
def test_the_noise_changes_by_step_sample_and_position(by_sample):
    quantizer = make(straight_through=False)
    quantizer.sample_index = torch.arange(6) if by_sample else None
    z = torch.ones(6, D, 8).double()  # all that differs is the noise
    outs = torch.cat([quantizer(z).quantized.movedim(1, -1).reshape(-1, D) for _ in range(3)])
    assert len(outs.unique(dim=0)) == 3 * 6 * 8


def test_the_noise_depends_on_the_seed_and_the_counted_steps_alone():
    quantizer, z = make(), torch.ones(200, D).double()
    quantizer.sample_index, quantizer.auto_update = torch.arange(200), False

    def draw(seed, steps):
        quantizer.seed = seed
        quantizer.steps.fill_(steps)
        return quantizer(z).indices

    first = draw(1, 5)
    torch.rand(9)  # torch's generator has no part in it
    assert torch.equal(draw(1, 5), first)
    assert not torch.equal(draw(1, 6), first)
    assert not torch.equal(draw(2, 5), first)
    assert not torch.equal(make(seed=1).codebook, make(seed=2).codebook)


def test_eval_takes_the_most_likely_code():
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


def test_temperature_follows_the_counted_steps(monkeypatch):
    anneal = Anneal(2.0, 0.5, total_steps=4, warmup_steps=1, kind="linear")
    noise, z = rand(20, K, seed=10), rand(20, D, seed=11)
    quantizer = with_noise(make(temperature=anneal, straight_through=False), noise, monkeypatch)
    for step, temperature in enumerate([2.0, 2.0, 1.5, 1.0, 0.5, 0.5]):
        assert quantizer.steps == step
        assert quantizer.temperature.item() == pytest.approx(temperature)
        mixed, _ = mixture(*leaves(quantizer, z), noise, temperature)
        torch.testing.assert_close(quantizer(z).quantized, mixed, rtol=1e-6, atol=1e-6)
    again = GumbelQuantizer(K, D, temperature=anneal)
    again.load_state_dict(quantizer.state_dict())
    assert again.steps == 6
    quantizer.eval()(z)
    assert quantizer.steps == 6


def test_update_counts_a_step_and_forward_does_not():
    quantizer = make()
    quantizer.auto_update = False
    outs = [quantizer(rand(5, D, seed=seed)) for seed in range(3)]
    assert quantizer.steps == 0
    assert quantizer.update(outs[0].stats + outs[1].stats + outs[2].stats) == []
    assert quantizer.steps == 1


def test_the_default_temperature_is_that_of_dall_e():
    quantizer = GumbelQuantizer(K, D)
    assert quantizer.temperature == 1
    quantizer.steps.fill_(150_000)
    assert quantizer.temperature == 1 / 16
    assert GumbelQuantizer(K, D, temperature=0.3).temperature.item() == pytest.approx(0.3)


@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("elements", [1, 3 * K])
def test_blocks_give_the_result_of_one_block(monkeypatch, straight_through, elements):
    quantizer = make(0.4, temperature=0.8, straight_through=straight_through)
    quantizer.sample_index, quantizer.auto_update = torch.arange(10), False
    z, g = rand(10, D, 2, seed=12).requires_grad_(), rand(10, D, 2, seed=13)

    def run():
        out = quantizer(z)
        return out, torch.autograd.grad((out.quantized * g).sum() + out.loss, [z, *quantizer.parameters()])

    (whole, expected), _ = run(), monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", elements)
    out, grads = run()
    assert torch.equal(out.indices, whole.indices)
    for a, b in zip((out.quantized, out.loss, *grads), (whole.quantized, whole.loss, *expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_the_backward_pass_sees_the_noise_of_the_forward_pass(monkeypatch):
    """q = y C, so that C dot dL/dC = sum of g q for L = sum of g q, if y is the same in both."""
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 4 * K)
    quantizer = make(straight_through=False)
    g = rand(30, D, seed=14)
    out = quantizer(rand(30, D, seed=15))
    (out.quantized * g).sum().backward()
    torch.testing.assert_close((quantizer.codebook * quantizer.codebook.grad).sum(), (out.quantized * g).sum())


def test_huge_logits_stay_finite():
    quantizer = GumbelQuantizer(K, D, temperature=0.01)
    z = (1e4 * rand(20, D, seed=16).float()).requires_grad_()
    out = quantizer(z)
    (out.quantized.sum() + out.loss).backward()
    assert out.terms["kl"].item() == pytest.approx(math.log(K), rel=1e-4)
    assert z.grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_embeddings": 0}, ("num_embeddings must be at least 1, got 0", "--model.quantizer.num_embeddings=512")),
        ({"embedding_dim": -2}, ("embedding_dim must be at least 1, got -2", "--model.quantizer.embedding_dim=32")),
        ({"kl_weight": -1e-3}, ("kl_weight must be finite and not negative, got -0.001", "0.0005 is usual")),
        ({"kl_weight": math.nan}, ("kl_weight", "got nan")),
        ({"temperature": 0.0}, ("temperature must be finite and above 0, got 0.0", "anneal it from 1 to 0.0625")),
        ({"temperature": math.nan}, ("temperature must be finite and above 0, got nan",)),
        ({"temperature": Anneal(1.0, 0.0, 9)}, ("temperature must be finite and above 0, got 0.0", "anneal it")),
        ({"temperature": Anneal(-1.0, 1.0, 9)}, ("temperature must be finite and above 0, got -1.0",)),
    ],
)
def test_refusals(change, words):
    with refused(*words):
        GumbelQuantizer(**change)


def test_one_code_is_enough():
    out = GumbelQuantizer(1, 1, kl_weight=0.0, temperature=1e-3)(torch.randn(4, 1))
    assert not out.indices.any()
    assert out.terms["kl"].abs() < 1e-6
