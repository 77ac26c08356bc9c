"""The networks for signals: shapes, order in time, what they can remember, and bad arguments."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqlab.nn.autoencoders.s4d import Block, Fold, S4DDecoder, S4DEncoder, Unfold
from vqlab.nn.ssm.s4d import SCAN_FROM


@pytest.mark.parametrize("mixer", ["s4d", "conv"])
def test_lengths_and_channels(mixer):
    encoder = S4DEncoder(2, 16, pool=(4, 2), mixer=mixer, d_state=8)
    decoder = S4DDecoder(16, 2, 16, pool=(4, 2), mixer=mixer, d_state=8)
    assert encoder.downsampling == decoder.upsampling == 8
    for length in (8, 64, 1000):
        z = encoder(torch.randn(3, 2, length))
        assert z.shape == (3, 16, length // 8)
        assert decoder(z).shape == (3, 2, length)


def test_folding_is_undone_and_keeps_neighbours_together():
    x = torch.arange(24.0).view(1, 2, 12)
    folded = Fold(4)(x)
    assert folded[0, :, 0].tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert torch.equal(Unfold(4)(folded), x)


@pytest.mark.parametrize("mixer", ["s4d", "conv"])
def test_a_causal_block_sees_no_future_and_a_bidirectional_one_does(mixer):
    for bidirectional in (False, True):
        block = Block(8, 8, "lin", bidirectional, mixer, 0.0)
        x = torch.randn(1, 8, 40, requires_grad=True)
        (gradient,) = torch.autograd.grad(block(x)[:, :, 20].sum(), x)
        later = gradient[..., 21:].abs().max()
        assert (later > 1e-4) == bidirectional
        assert gradient[..., 18].abs().max() > 1e-4


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("mlp", ["linear", "relu"])
def test_norm_and_mlp_choose_the_last_layers(norm, mlp):
    names = {type(part).__name__ for part in S4DEncoder(norm=norm, mlp=mlp).layers[-2:].modules()}
    assert ("BatchNorm1d" in names, "ChannelNorm" in names, "ReLU" in names) == (
        norm == "batch",
        norm == "layer",
        mlp == "relu",
    )


def remember(mixer):
    """Train to tell at the last of 1024 samples which signs two channels had in the first 16; return the accuracy."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 32, 1), *[Block(32, 32, "lin", False, mixer, 0.0) for _ in range(2)])
    head = nn.Linear(32, 4)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=1e-2)

    def batch(count):
        label = torch.randint(4, (count,))
        x = 0.1 * torch.randn(count, 2, 1024)
        x[..., :16] += 2.0 * torch.stack([label % 2, label // 2], 1)[..., None] - 1
        return x, label

    for _ in range(80):
        x, label = batch(16)
        optimizer.zero_grad()
        F.cross_entropy(head(net(x)[..., -1]), label).backward()
        optimizer.step()
    with torch.no_grad():
        x, label = batch(500)
        return (head(net(x)[..., -1]).argmax(1) == label).float().mean().item()


def test_it_remembers_what_a_convolution_never_sees():
    assert remember("s4d") >= 0.95
    assert remember("conv") <= 0.35


@pytest.mark.parametrize(("bidirectional", "length"), [(True, 128), (False, SCAN_FROM)])  # by FFT, by chunks
def test_it_compiles_to_one_graph_and_back(bidirectional, length):
    block = Block(4, 8, "lin", bidirectional, "s4d", 0.0)
    x = torch.randn(2, 4, length)
    results = []
    for network in (block, torch.compile(block, fullgraph=True, backend="aot_eager")):
        loss = network(x).square().sum()
        results.append((loss, *torch.autograd.grad(loss, list(block.parameters()))))
    torch.testing.assert_close(*results)
