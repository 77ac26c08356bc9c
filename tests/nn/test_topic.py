"""Generators, encoder and critic of topic models; sparse and mixed documents."""

import math

import pytest
import torch

from vqlab.nn.topic import (
    GENERATORS,
    Bags,
    GaussianGenerator,
    Mixtures,
    TopicCritic,
    TopicEncoder,
    dense,
    draw_proportions,
)


@pytest.mark.parametrize("name", GENERATORS)
def test_documents_and_topics_are_distributions(name):
    generator = GENERATORS[name](4, 30)
    theta = draw_proportions(9, 4, 0.25)
    torch.testing.assert_close(dense(generator(theta)).sum(1), torch.ones(9))
    torch.testing.assert_close(generator.log_topics().exp().sum(1), torch.ones(4))


def test_gaussian_topics_are_the_words_densities():
    generator = GaussianGenerator(3, 20, 5).double()
    std = generator.log_std.exp()
    density = torch.stack(
        [torch.distributions.Normal(generator.mean[k], std[k]).log_prob(generator.words).sum(1) for k in range(3)]
    )
    torch.testing.assert_close(generator.log_topics(), density.log_softmax(1))


def test_proportions_follow_the_dirichlet():
    theta = draw_proportions(20000, 5, 0.2, torch.Generator().manual_seed(1)).double()
    expected_variance = (1 / 5) * (4 / 5) / (5 * 0.2 + 1)
    torch.testing.assert_close(theta.mean(0), torch.full((5,), 0.2, dtype=torch.float64), atol=0.01, rtol=0)
    torch.testing.assert_close(
        theta.var(0), torch.full((5,), expected_variance, dtype=torch.float64), atol=0.01, rtol=0
    )
    assert torch.isfinite(draw_proportions(1000, 200, 1e-4)).all()  # nearly all of it on one topic


def test_spectral_norm_bounds_every_weight():
    critic = TopicCritic(30, 4, 16, spectral_norm=True)
    for _ in range(50):  # the power iteration goes on in training
        critic(torch.rand(6, 30), torch.rand(6, 4))
    for weight in (critic.words, critic.proportions.weight, critic.out.weight):
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=0.02)


def test_the_encoders_first_layer_is_a_linear_one():
    encoder = TopicEncoder(30, 4, 16).double().eval()
    documents = torch.rand(6, 30, dtype=torch.float64).softmax(1)
    hidden = encoder.norm(documents @ encoder.words)
    expected = encoder.out(torch.where(hidden > 0, hidden, 0.1 * hidden)).softmax(1)
    torch.testing.assert_close(encoder(documents), expected)
    assert encoder.words.abs().max() <= 1 / math.sqrt(30)


def sparse_rows(batch=7, words=30):
    bow = torch.rand(batch, words, dtype=torch.float64) * (torch.rand(batch, words) < 0.2)
    bow[:, 3] += 0.1  # no row is empty
    return bow


def test_bags_multiply_as_their_rows_over_their_sums():
    bow, weight = sparse_rows(), torch.randn(30, 5, dtype=torch.float64, requires_grad=True)
    other = weight.detach().clone().requires_grad_()
    product, expected = Bags(bow) @ weight, (bow / bow.sum(1, keepdim=True)) @ other
    torch.testing.assert_close(product, expected)
    cotangent = torch.randn_like(product)
    product.backward(cotangent)
    expected.backward(cotangent)
    torch.testing.assert_close(weight.grad, other.grad)


def test_mixtures_multiply_as_their_dense_matrix():
    theta = torch.rand(7, 4, dtype=torch.float64).softmax(1).requires_grad_()
    topics = torch.rand(4, 30, dtype=torch.float64).softmax(1).requires_grad_()
    weight = torch.randn(30, 5, dtype=torch.float64)
    documents = Mixtures(theta, topics)
    torch.testing.assert_close(documents @ weight, dense(documents) @ weight)
    torch.testing.assert_close(dense(documents).sum(1), torch.ones(7, dtype=torch.float64))
    ours = torch.autograd.grad((documents @ weight).square().sum(), (theta, topics))
    expected = torch.autograd.grad((theta @ topics @ weight).square().sum(), (theta, topics))
    for gradient, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, other)
