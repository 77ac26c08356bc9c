"""Code splitting: what a split keeps and gains, and the recovery of collapsed codes."""

import math

import pytest
import torch

from tests.helpers.grid import Data, fit, grid
from vqlab.models.categorical.code_splitting import LOOK, CodeSplitter
from vqlab.nn.categorical import CategoricalCode

SIZE = 6


@pytest.mark.parametrize("tied", [False, True])
def test_split_keeps_q_and_embeddings_of_other_codes(tied):
    torch.manual_seed(0)
    code = CategoricalCode(3, SIZE, 4, num_codebooks=2, tied=tied)
    features = torch.randn(2, 3, 2, 2)
    before, table = code.log_probs(features).exp(), code.codebook.detach().clone()
    # In the first variable, codes 0 and 5 are the most common and 4 and 3 the rarest; the second is uniform.
    counts = torch.tensor([[3 * LOOK, LOOK, LOOK // 2, 10, 0, 3 * LOOK // 2 - 10], [LOOK] * 6])
    splitter = CodeSplitter(*counts.shape, ratio=4.0)
    splitter.count(torch.stack([torch.arange(SIZE).repeat_interleave(count) for count in counts], 1))
    splitter.split(code, torch.optim.SGD(code.parameters()))
    after = code.log_probs(features).exp()
    assert splitter.total == 2
    assert splitter.counts.sum() == 0
    torch.testing.assert_close(after[:, 1::2], before[:, 1::2])
    first, second = before[:, ::2], after[:, ::2]
    rest = 1 - first[..., 3:5].sum(-1)  # without the former probability of the two rare codes
    for common, rare in ((0, 4), (5, 3)):
        torch.testing.assert_close(second[..., common] * rest, first[..., common] / 2)
        torch.testing.assert_close(second[..., rare], second[..., common])
        assert torch.equal(code.codebook[0, rare], table[0, common])
    assert torch.equal(code.codebook[1], table[1])
    assert torch.equal(code.codebook[0, [0, 1, 2, 5]], table[0, [0, 1, 2, 5]])


def test_split_of_dead_code_raises_log_likelihood_by_ln_2_per_position():
    model = grid(num_embeddings=2, split_ratio=4)
    codes = torch.zeros(1, model.latent.positions, dtype=torch.int64)
    x = model.decode(model.latent.to_map(codes))
    with torch.no_grad():
        model.quantizer.codebook[0, 1] += 100  # explains no image
        model.latent.likelihood.mse.fill_(1e-4)
        corners = torch.stack([codes[0], codes[0].index_fill(0, torch.tensor(0), 1)])
        gains = []
        for _ in range(2):
            gains.append(model.latent.joint(x.expand(2, -1, -1, -1), corners, torch.arange(2))[0].logsumexp(0))
            model.splitter.count(torch.zeros(1, 2 * LOOK, dtype=torch.int64))
            model.splitter.split(model.quantizer, torch.optim.SGD(model.parameters()))
    assert gains[1] - gains[0] == pytest.approx(math.log(2), abs=1e-4)


def test_splitting_recovers_collapsed_codes():
    """At first q proposes only four of 32 codes."""
    perplexity = {}
    for ratio in (None, 4.0):
        model = grid(split_ratio=ratio, num_embeddings=32)
        with torch.no_grad():
            model.quantizer.logits.bias[4:] -= 15
        fit(model, max_steps=60, log_every_n_steps=60)
        x = next(iter(Data().train_dataloader()))["image"]
        usage = model.latent.log_q(x).detach().exp().mean((0, 1))
        perplexity[ratio] = torch.distributions.Categorical(usage).entropy().exp().item()
    assert perplexity[None] < 5
    assert perplexity[4.0] > 12
