"""Generators, encoder and critic of topic models; sparse and factorized documents."""

import math

import pytest
import torch

from vqlab.nn import topic
from vqlab.nn.topic import GENERATORS, Bags, Mixtures, dense, draw_proportions


@pytest.mark.parametrize("name", GENERATORS)
def test_documents_and_topics_are_distributions_and_a_topic_is_a_document(name):
    generator = GENERATORS[name](4, 30)
    torch.testing.assert_close(dense(generator(draw_proportions(9, 4, 0.25))).sum(1), torch.ones(9))
    topics = generator.log_topics().exp()
    torch.testing.assert_close(topics.sum(1), torch.ones(4))
    assert generator.training
    torch.testing.assert_close(dense(generator.eval()(torch.eye(4))), topics)


def test_gaussian_topics_are_densities_of_the_words():
    generator = topic.GaussianGenerator(3, 20, 5).double()
    std = generator.log_std.exp()
    normals = [torch.distributions.Normal(generator.mean[k], std[k]) for k in range(3)]
    density = torch.stack([normal.log_prob(generator.words).sum(1) for normal in normals])
    torch.testing.assert_close(generator.log_topics(), density.log_softmax(1))


def test_proportions_follow_the_dirichlet():
    theta = draw_proportions(20000, 5, 0.2, torch.Generator().manual_seed(1)).double()
    variance = (1 / 5) * (4 / 5) / (5 * 0.2 + 1)
    assert theta.mean(0).tolist() == pytest.approx([0.2] * 5, abs=0.01)
    assert theta.var(0).tolist() == pytest.approx([variance] * 5, abs=0.01)
    assert torch.isfinite(draw_proportions(1000, 200, 1e-4)).all()  # almost one-hot


def test_spectral_norm_bounds_every_weight():
    critic = topic.TopicCritic(30, 4, 16, spectral_norm=True)
    for _ in range(50):  # each pass in training is a power iteration
        critic(torch.rand(6, 30), torch.rand(6, 4))
    for weight in (critic.words, critic.proportions.weight, critic.out.weight):
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=0.02)


def test_encoder_equals_its_formula():
    encoder = topic.TopicEncoder(30, 4, 16).double().eval()
    documents = torch.rand(6, 30, dtype=torch.float64).softmax(1)
    hidden = encoder.norm(documents @ encoder.words)
    expected = encoder.out(torch.where(hidden > 0, hidden, 0.1 * hidden)).softmax(1)
    torch.testing.assert_close(encoder(documents), expected)
    assert encoder.words.abs().max() <= 1 / math.sqrt(30)


def test_product_of_bags_equals_that_of_normalized_rows():
    bow = torch.rand(7, 30, dtype=torch.float64) * (torch.rand(7, 30) < 0.2)
    bow[:, 3] += 0.1  # no row is empty
    weight = torch.randn(30, 5, dtype=torch.float64, requires_grad=True)
    product, expected = Bags(bow) @ weight, (bow / bow.sum(1, keepdim=True)) @ weight
    torch.testing.assert_close(product, expected)
    cotangent = torch.randn_like(product)
    torch.testing.assert_close(*(torch.autograd.grad(value, weight, cotangent) for value in (product, expected)))


def test_product_of_mixtures_equals_that_of_the_dense_matrix():
    theta = torch.rand(7, 4, dtype=torch.float64).softmax(1).requires_grad_()
    topics = torch.rand(4, 30, dtype=torch.float64).softmax(1).requires_grad_()
    weight = torch.randn(30, 5, dtype=torch.float64)
    documents = Mixtures(theta, topics)
    torch.testing.assert_close(documents @ weight, dense(documents) @ weight)
    torch.testing.assert_close(dense(documents).sum(1), torch.ones(7, dtype=torch.float64))
    products = documents @ weight, theta @ topics @ weight
    torch.testing.assert_close(*(torch.autograd.grad(p.square().sum(), (theta, topics)) for p in products))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fractions_of_half_precision_counts_are_float32(dtype):
    assert (Bags(torch.tensor([[3, 1]], dtype=dtype)) @ torch.eye(2)).tolist() == [[0.75, 0.25]]
