"""Splitting: what a split keeps, what it gains, when it happens."""

import math

import pytest
import torch

from tests.helpers.grid import Data, fit, grid
from vqlab.models.categorical.code_splitting import LOOK, CodeSplitter
from vqlab.models.categorical.jsa import JSA
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.categorical import CategoricalCode
from vqlab.nn.image_format import ImageFormat

SIZE = 6


def look(code, counts, optimizer=None, ratio=4.0):
    """Draw codes as often as ``counts`` (V, K) say, enough to look."""
    splitter = CodeSplitter(*counts.shape, ratio)
    books = [torch.arange(SIZE).repeat_interleave(count) for count in counts]
    splitter.count(torch.stack(books, 1))
    splitter.split(code, optimizer or torch.optim.SGD(code.parameters()))
    return splitter


def draws(*shares):
    return [share * LOOK for share in shares]


def test_a_split_keeps_what_q_says_and_the_embedding_of_each_code():
    torch.manual_seed(0)
    code = CategoricalCode(3, SIZE, 4, num_codebooks=2)
    features = torch.randn(2, 3, 2, 2)
    before, table = code.log_probs(features).exp(), code.codebook.detach().clone()
    # Of the first variable, 0 and 5 are commonest and 4 and 3 rarest; the second is in order.
    counts = torch.tensor([[3 * LOOK, LOOK, LOOK // 2, 10, 0, 3 * LOOK // 2 - 10], draws(1, 1, 1, 1, 1, 1)])
    splitter = look(code, counts)
    after = code.log_probs(features).exp()
    assert splitter.total == 2
    assert splitter.counts.sum() == 0
    torch.testing.assert_close(after[:, 1::2], before[:, 1::2])
    first, second = before[:, ::2], after[:, ::2]
    rest = 1 - first[..., 3:5].sum(-1)  # what the two rare codes had is lost
    for common, rare in ((0, 4), (5, 3)):
        torch.testing.assert_close(second[..., common] * rest, first[..., common] / 2)
        torch.testing.assert_close(second[..., rare], second[..., common])
        assert torch.equal(code.codebook[0, rare], table[0, common])
    assert torch.equal(code.codebook[1], table[1])
    assert torch.equal(code.codebook[0, [0, 1, 2, 5]], table[0, [0, 1, 2, 5]])


def test_a_split_raises_the_likelihood_where_a_code_says_nothing():
    """The share of a dead code goes to the code that explains the images: ln p(x) gains ln 2 at each position."""
    torch.manual_seed(0)
    model = JSA(
        SmallEncoder(1, 8, 8, 1),
        SmallDecoder(1, 8, 8, 1),
        num_embeddings=2,
        split_ratio=4,
        images=ImageFormat(channels=1, size=16),
    )
    codes = torch.zeros(1, model.latent.positions, dtype=torch.int64)
    x = model.decode(model.latent.to_map(codes))
    with torch.no_grad():
        model.quantizer.codebook[0, 1] += 100  # so far off that no image comes of it
        model.latent.likelihood.mse.fill_(1e-4)
        corners = torch.stack([codes[0], codes[0].index_fill(0, torch.tensor(0), 1)])
        gains = []
        for _ in range(2):
            gains.append(model.latent.joint(x.expand(2, -1, -1, -1), corners, torch.arange(2))[0].logsumexp(0))
            counts = torch.tensor([2 * LOOK, 0])
            model.splitter.count(torch.zeros(1, int(counts[0]), dtype=torch.int64))
            model.splitter.split(model.quantizer, torch.optim.SGD(model.parameters()))
    assert gains[1] - gains[0] == pytest.approx(math.log(2), abs=1e-4)


def test_a_collapsed_code_comes_to_life():
    """q proposes four codes of 32, and no others ever again; splits bring them back while it trains."""
    perplexity = {}
    for ratio in (None, 4.0):
        model = grid(split_ratio=ratio, num_embeddings=32)
        with torch.no_grad():
            model.quantizer.logits.bias[4:] -= 15
        fit(model, max_steps=60, log_every_n_steps=60)
        x = next(iter(Data().train_dataloader()))["image"]
        share = model.latent.log_q(x).detach().exp().mean((0, 1))
        perplexity[ratio] = torch.distributions.Categorical(share).entropy().exp().item()
    assert perplexity[None] < 5
    assert perplexity[4.0] > 12
