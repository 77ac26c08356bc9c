"""SimVQ against brute force over the projected codes, and its initialisation against moments in float64."""

import math

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.quantizers.estimators import rotation_trick
from vqlab.quantizers.sim_vq import SimVQ


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(num, dim, seed):
    """Rows (N, D) whose channels depend on each other, far from the origin."""
    return rand(num, dim, seed=seed) @ rand(dim, dim, seed=seed + 1) + 5 * rand(dim, seed=seed + 2)


def moments(rows):
    mean = rows.mean(0)
    return mean, (rows - mean).T @ (rows - mean) / len(rows)


def make(codes=20, dim=4, **kwargs):
    """With W and b of a trained quantizer's size, in float64."""
    quantizer = SimVQ(codes, dim, init="random", **kwargs).double()
    quantizer.projection.weight.data.copy_(rand(dim, dim, seed=90))
    quantizer.projection.bias.data.copy_(rand(dim, seed=91))
    return quantizer


@pytest.mark.parametrize("training", [True, False])
def test_codes_are_the_projected_ones_and_the_nearest_is_taken(training):
    quantizer = make().train(training)
    weight, bias = quantizer.projection.weight.detach(), quantizer.projection.bias.detach()
    codes = torch.stack([weight @ code + bias for code in quantizer.frozen])
    torch.testing.assert_close(quantizer.codebook.detach(), codes)
    z = 2 * rand(5, 4, 8, seed=1)
    out = quantizer(z)
    rows = z.movedim(1, -1).reshape(-1, 4)
    nearest = torch.stack([(row - codes).square().sum(1).argmin() for row in rows])
    assert torch.equal(out.indices.flatten(), nearest)
    assert len(nearest.unique()) > 10
    torch.testing.assert_close(out.quantized.movedim(1, -1).reshape(-1, 4), codes[nearest])
    assert out.stats is None


def test_the_frozen_codes_are_normal_and_of_length_one_on_average():
    frozen = SimVQ(20_000, 16).frozen
    assert frozen.square().sum(1).mean().item() == pytest.approx(1, abs=0.01)
    mean, cov = moments(frozen)
    torch.testing.assert_close(cov, torch.eye(16) / 16, rtol=0, atol=0.003)
    torch.testing.assert_close(mean, torch.zeros(16), rtol=0, atol=0.01)


@pytest.mark.parametrize("estimator", ["ste", "rotation"])
def test_loss_and_gradients(estimator):
    quantizer = make(commitment_weight=0.3, estimator=estimator)
    z, g = rand(30, 4, seed=2).requires_grad_(), rand(30, 4, seed=3)
    out = quantizer(z)
    grads = torch.autograd.grad(out.loss, [z, quantizer.projection.weight, quantizer.projection.bias])

    weight, bias = (p.detach().clone().requires_grad_() for p in quantizer.projection.parameters())
    codes = quantizer.frozen[out.indices] @ weight.T + bias
    commitment = (z - codes.detach()).square().sum() / z.numel()
    codebook_loss = (z.detach() - codes).square().sum() / z.numel()
    expected = 0.3 * commitment + codebook_loss
    torch.testing.assert_close(out.loss, expected)
    for a, b in zip(grads, torch.autograd.grad(expected, [z, weight, bias]), strict=True):
        torch.testing.assert_close(a, b)
    assert {name: term.item() for name, term in out.terms.items()} == pytest.approx(
        {"commitment_loss": commitment.item(), "codebook_loss": codebook_loss.item()}
    )

    out = quantizer(z)
    (ours,) = torch.autograd.grad(out.quantized, z, g, retain_graph=True)
    theirs = g if estimator == "ste" else torch.autograd.grad(rotation_trick(z, codes.detach()), z, g)[0]
    torch.testing.assert_close(ours, theirs)
    reached = torch.autograd.grad(out.quantized, list(quantizer.parameters()), g, allow_unused=True)
    assert reached == (None, None)  # the decoder does not move the codes


def test_one_vector_moves_all_codes_and_no_frozen_one():
    quantizer = SimVQ(50, 4, init="random")
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.5)
    frozen, before = quantizer.frozen.clone(), quantizer.codebook.detach()
    for seed in range(3):
        optimizer.zero_grad()
        quantizer(rand(1, 4, seed=seed).float()).loss.backward()
        optimizer.step()
    assert (quantizer.codebook.detach() - before).abs().sum(1).min() > 1e-3
    assert torch.equal(quantizer.frozen, frozen)
    assert {name for name, _ in quantizer.named_parameters()} == {"projection.weight", "projection.bias"}
    assert torch.equal(quantizer.state_dict()["frozen"], frozen)
    assert not quantizer.frozen.requires_grad


@pytest.mark.parametrize("dim", [1, 5])
def test_data_init_is_the_root_of_the_covariance(dim):
    rows = correlated(300, dim, seed=4)
    quantizer = SimVQ(9, dim).double()
    quantizer(rows)
    weight, bias = quantizer.projection.weight.detach(), quantizer.projection.bias.detach()
    mean, cov = moments(rows)
    torch.testing.assert_close(bias, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weight @ weight, dim * cov, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(weight, weight.T, rtol=1e-10, atol=1e-10)
    assert torch.linalg.eigvalsh(weight).min() > 0
    assert not quantizer.first_batch.awaited


def test_many_codes_have_the_mean_and_covariance_of_the_first_batch():
    rows = correlated(500, 6, seed=5)
    quantizer = SimVQ(40_000, 6)
    quantizer.initialize(rows.float())
    (mean, cov), (code_mean, code_cov) = moments(rows), moments(quantizer.codebook.detach().double())
    scale = cov.diagonal().sqrt()
    torch.testing.assert_close((code_mean - mean) / scale, torch.zeros(6).double(), rtol=0, atol=0.03)
    torch.testing.assert_close((code_cov - cov) / scale / scale[:, None], torch.zeros(6, 6).double(), rtol=0, atol=0.05)


@pytest.mark.parametrize("rows", [rand(2, 5, seed=6), torch.ones(9, 5).double(), 1e6 + rand(50, 5, seed=7)])
def test_batches_with_a_difficult_covariance(rows):
    quantizer = SimVQ(16, 5)
    out = quantizer(rows.float())
    mean, cov = moments(rows.float().double())
    weight, bias = quantizer.projection.weight.detach().double(), quantizer.projection.bias.detach().double()
    torch.testing.assert_close(bias, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(weight @ weight, 5 * cov, rtol=0, atol=1e-2)  # also 10^6 standard deviations away
    assert quantizer.codebook.isfinite().all()
    assert out.loss.isfinite()


def test_only_the_first_training_batch_that_is_finite_sets_up():
    quantizer = SimVQ(16, 4)
    drawn = [p.detach().clone() for p in quantizer.projection.parameters()]

    def moved():
        return any(not torch.equal(a, b) for a, b in zip(quantizer.projection.parameters(), drawn, strict=True))

    quantizer.eval()(rand(30, 4, seed=8).float())
    assert not moved()
    broken = rand(30, 4, seed=8).float()
    broken[3, 1] = math.nan
    assert quantizer.train()(broken).loss.isnan()
    broken[3, 1] = math.inf
    quantizer(broken)
    assert not moved()
    assert quantizer.first_batch.awaited
    quantizer(rand(30, 4, seed=9).float())
    assert moved()
    drawn = [p.detach().clone() for p in quantizer.projection.parameters()]
    quantizer(rand(30, 4, seed=10).float())
    assert not moved()


def test_a_loaded_quantizer_is_set_up_already():
    first, second = SimVQ(16, 4), SimVQ(16, 4, seed=3)
    first(rand(30, 4, seed=11).float())
    second.load_state_dict(first.state_dict())
    z = rand(30, 4, seed=12).float()
    assert torch.equal(second(z).quantized, first(z).quantized)
    assert torch.equal(second.codebook, first.codebook)


def test_random_init_leaves_the_linear_layer_as_it_was_drawn():
    torch.manual_seed(4)
    expected = torch.nn.Linear(4, 4)
    torch.manual_seed(4)
    quantizer = SimVQ(16, 4, init="random")
    quantizer(rand(30, 4, seed=13).float())
    assert torch.equal(quantizer.projection.weight, expected.weight)
    assert torch.equal(quantizer.projection.bias, expected.bias)


def test_the_seed_is_that_of_the_frozen_codes():
    torch.rand(7)
    first, same, other = (SimVQ(16, 4, seed=seed).frozen for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.isclose(first, other).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_embeddings": 0}, ("num_embeddings must be at least 1, got 0", "--model.quantizer.num_embeddings=512")),
        ({"embedding_dim": 0}, ("embedding_dim must be at least 1, got 0", "--model.quantizer.embedding_dim=32")),
        ({"commitment_weight": -0.5}, ("commitment_weight must be finite and not negative, got -0.5", "0.25 is usual")),
        ({"commitment_weight": math.nan}, ("commitment_weight", "got nan")),
        ({"estimator": "soft"}, ("estimator must be one of ste, rotation, got 'soft'",)),
        ({"init": "kmeans"}, ("init must be one of data, random, got 'kmeans'",)),
    ],
)
def test_refusals(change, words):
    with refused(*words):
        SimVQ(**change)


def test_limits_that_are_allowed():
    out = SimVQ(1, 1, commitment_weight=0.0)(torch.ones(3, 1))
    assert not out.indices.any()
    torch.testing.assert_close(out.quantized, torch.ones(3, 1))
