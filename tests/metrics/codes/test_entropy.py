"""Entropy of q and information in its codes, against the same figures in float64."""

import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.metrics.codes.entropy import ProposalEntropy


def by_hand(q):
    """Site entropy and mutual information of probabilities (N, P, K)."""

    def entropy(p):
        return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)

    return entropy(q).mean(), (entropy(q.mean(0)) - entropy(q).mean(0)).mean()


def test_figures_over_batches_of_unequal_size():
    log_q = (3 * torch.randn(40, 5, 7)).log_softmax(-1)
    log_q[:3, 0] = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).log()
    metric = ProposalEntropy(5, 7)
    for part in log_q.split([25, 15]):
        metric.update(part)
    found = metric.compute()
    entropy, information = by_hand(log_q.double().exp().numpy())
    assert found["site_entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert found["mutual_information"].item() == pytest.approx(information, rel=1e-5)


def test_codes_that_say_nothing_and_codes_that_say_all():
    nothing, everything = ProposalEntropy(1, 4), ProposalEntropy(1, 4)
    nothing.update(torch.full((8, 1, 4), 0.25).log())
    everything.update(torch.eye(4)[:, None].log())
    assert nothing.compute()["mutual_information"].item() == pytest.approx(0, abs=1e-6)
    assert everything.compute()["mutual_information"].item() == pytest.approx(np.log(4))
    assert everything.compute()["site_entropy"].item() == 0


def test_too_large_a_table_is_refused():
    with refused("num_embeddings"):
        ProposalEntropy(2**14, 2**13)
