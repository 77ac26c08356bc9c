"""Categorical codes: order of the positions, embeddings and priors."""

import math

import pytest
import torch

from vqlab.nn.categorical import CategoricalCode, FactorizedPrior


def test_probabilities_and_embeddings_equal_a_loop_over_places_and_variables():
    code = CategoricalCode(6, num_embeddings=5, embedding_dim=3, num_codebooks=2)
    features = torch.randn(2, 6, 4, 7)
    log_q = code.log_probs(features)
    codes = torch.randint(5, (2, 4 * 7 * 2))
    embedded = code.embed(codes, width=7)
    weight, bias = code.logits.weight[:, :, 0, 0], code.logits.bias
    for row, column in ((0, 0), (1, 6), (3, 2)):
        logits = features[0, :, row, column] @ weight.T + bias
        place = (row * 7 + column) * 2
        for v in range(2):
            expected = logits[5 * v : 5 * v + 5].log_softmax(0)
            torch.testing.assert_close(log_q[0, place + v], expected)
        vectors = [code.codebook[v, codes[0, place + v]] for v in range(2)]
        torch.testing.assert_close(embedded[0, :, row, column], vectors[0] + vectors[1])


def test_uniform_prior_counts_every_position():
    """8 x 8 positions of 1,024 codes have -64 ln 1024, not -ln 1024."""
    prior = FactorizedPrior(64, 1024, learned=False)
    found = prior.log_prob(torch.randint(1024, (3, 64)))
    assert found.tolist() == [pytest.approx(-64 * math.log(1024))] * 3
    assert not list(prior.parameters())


def test_factorized_prior_is_uniform_at_first_and_fits_each_position():
    prior = FactorizedPrior(3, 4, learned=True)
    codes = torch.randint(4, (500, 3)) * torch.tensor([0, 1, 1])  # the first position always has code 0
    assert prior.log_prob(codes[:1]).item() == pytest.approx(-3 * math.log(4))
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        (-prior.log_prob(codes).mean()).backward()
        optimizer.step()
    frequencies = torch.stack([(codes == k).float().mean(0) for k in range(4)], 1)
    torch.testing.assert_close(prior.log_probs(torch.device("cpu")).exp(), frequencies, atol=0.02, rtol=0)


def test_tied_logits_are_distances_to_the_embeddings_and_do_not_move_them():
    code = CategoricalCode(6, num_embeddings=5, embedding_dim=3, num_codebooks=2, tied=True).double()
    with torch.no_grad():
        code.logits.bias.normal_()
        code.logits.log_scale.fill_(0.3)
    inputs = torch.randn(4, 6, 2, 3, dtype=torch.float64)
    log_q = code.log_probs(inputs)
    features = code.logits.features(inputs)
    for n, row, column, book in ((0, 0, 0, 0), (3, 1, 2, 1), (2, 0, 1, 1)):
        f = features[n, 3 * book : 3 * book + 3, row, column]
        distances = (f - code.codebook[book]).square().sum(1)
        expected = (-math.exp(0.3) * distances / 2 + code.logits.bias.view(2, 5)[book]).log_softmax(0)
        torch.testing.assert_close(log_q[n, (row * 3 + column) * 2 + book].double(), expected, atol=1e-6, rtol=1e-5)
    log_q[..., 0].sum().backward()
    assert code.codebook.grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in code.logits.parameters())


def test_tied_logits_are_computed_in_float32_under_autocast():
    code = CategoricalCode(4, num_embeddings=16, embedding_dim=4, tied=True)
    with torch.no_grad():
        code.codebook += 30
        code.logits.features.weight.copy_(torch.eye(4)[..., None, None])
        code.logits.features.bias.zero_()
    inputs = (30 + torch.randn(2, 4, 3, 3)).bfloat16().float()  # exact in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        found = code.log_probs(inputs)
    torch.testing.assert_close(found, code.log_probs(inputs), atol=1e-3, rtol=1e-4)
