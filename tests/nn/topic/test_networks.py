"""Generators, encoder and critic of topic models."""

import math

import pytest
import torch

from vqlab.nn.topic.documents import dense
from vqlab.nn.topic.networks import (
    GENERATORS,
    GaussianGenerator,
    MLPTopicGenerator,
    TopicCritic,
    TopicEncoder,
    draw_proportions,
)


@pytest.mark.parametrize("name", GENERATORS)
def test_documents_and_topics_are_distributions(name):
    generator = GENERATORS[name](4, 30)
    theta = draw_proportions(9, 4, 0.25)
    torch.testing.assert_close(dense(generator(theta)).sum(1), torch.ones(9))
    torch.testing.assert_close(generator.log_topics().exp().sum(1), torch.ones(4))


@pytest.mark.parametrize("name", ["mixture", "gaussian"])
def test_a_topic_is_the_document_of_that_topic_alone(name):
    generator = GENERATORS[name](4, 30)
    torch.testing.assert_close(dense(generator(torch.eye(4))), generator.log_topics().exp())


def test_topics_of_the_mlp_are_read_off_in_evaluation_and_training_goes_on():
    generator = MLPTopicGenerator(4, 30)
    for _ in range(5):
        generator(draw_proportions(64, 4, 0.25))
    topics = generator.log_topics().exp()
    assert generator.training
    torch.testing.assert_close(generator.eval()(torch.eye(4)), topics)


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


def test_the_critic_without_proportions_does_not_look_at_them():
    critic, documents = TopicCritic(30, 0), torch.rand(6, 30).softmax(1)
    first = critic(documents, draw_proportions(6, 4, 1.0))
    torch.testing.assert_close(first, critic(documents, draw_proportions(6, 4, 1.0)))


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
