"""Networks for signals: shapes, order in time, causality and memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqlab.nn import S4D
from vqlab.nn.autoencoders.s4d import Block, S4DDecoder, S4DEncoder


@pytest.mark.parametrize("mixer", ["s4d", "conv"])
def test_lengths_and_channels(mixer):
    encoder = S4DEncoder(2, 16, pool=(4, 2), mixer=mixer, d_state=8)
    decoder = S4DDecoder(16, 2, 16, pool=(4, 2), mixer=mixer, d_state=8)
    assert encoder.downsampling == decoder.upsampling == 8
    for length in (8, 64, 1000):
        z = encoder(torch.randn(3, 2, length))
        assert z.shape == (3, 16, length // 8)
        assert decoder(z).shape == (3, 2, length)


def test_unfolding_inverts_folding_of_adjacent_samples():
    fold, unfold = S4DEncoder(2, 2, pool=(4,)).layers[2], S4DDecoder(8, 2, 2, pool=(4,)).layers[3]
    x = torch.arange(24.0).view(1, 2, 12)
    assert fold(x)[0, :, 0].tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert torch.equal(unfold(fold(x)), x)


@pytest.mark.parametrize("mixer", ["s4d", "conv"])
def test_only_a_bidirectional_block_depends_on_later_samples(mixer):
    for bidirectional in (False, True):
        block = Block(8, 8, "lin", bidirectional, mixer, 0.0)
        x = torch.randn(1, 8, 40, requires_grad=True)
        (gradient,) = torch.autograd.grad(block(x)[:, :, 20].sum(), x)
        later = gradient[..., 21:].abs().max()
        assert (later > 1e-4) == bidirectional
        assert gradient[..., 18].abs().max() > 1e-4


@pytest.mark.parametrize(
    ("bidirectional", "length"), [(True, 128), pytest.param(False, S4D.scan_from, marks=pytest.mark.slow)]
)
def test_compiled_block_has_equal_losses_and_gradients(bidirectional, length):
    block = Block(4, 8, "lin", bidirectional, "s4d", 0.0)
    x = torch.randn(2, 4, length)
    results = []
    for network in (block, torch.compile(block, fullgraph=True, backend="aot_eager")):
        loss = network(x).square().sum()
        results.append((loss, *torch.autograd.grad(loss, list(block.parameters()))))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("mixer", "least", "most"), [("s4d", 0.95, 1.0), ("conv", 0.0, 0.35)])
def test_s4d_learns_a_dependency_that_convolutions_cannot(mixer, least, most):
    """The signs of two channels in the first 16 of 1024 samples, classified at the last one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 32, 1), *[Block(32, 32, "lin", False, mixer, 0.0) for _ in range(2)])
    head = nn.Linear(32, 4)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=1e-2)

    def logits_and_labels(count):
        label = torch.randint(4, (count,))
        x = 0.1 * torch.randn(count, 2, 1024)
        x[..., :16] += 2.0 * torch.stack([label % 2, label // 2], 1)[..., None] - 1
        return head(net(x)[..., -1]), label

    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(*logits_and_labels(16)).backward()
        optimizer.step()
    with torch.no_grad():
        logits, label = logits_and_labels(500)
    assert least <= (logits.argmax(1) == label).float().mean() <= most
