"""The classifying discriminator: its heads, and what spectral norm bounds."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqlab.nn.gan.conv import ConvFeatures
from vqlab.nn.gan.sgan_discriminator import SGANDiscriminator, real_logit


def spectral(**options):
    torch.manual_seed(0)
    return SGANDiscriminator(ConvFeatures(norm="none"), 10, spectral_norm=True, **options)


def test_with_k_logits_the_last_is_0_and_the_real_logit_their_log_sum_exp():
    output = SGANDiscriminator(ConvFeatures(), 10, head="logsumexp").eval()(torch.randn(3, 1, 32, 32))
    assert output.logits.shape == (3, 11)
    assert torch.equal(output.logits[:, -1], torch.zeros(3))
    torch.testing.assert_close(output.real_logits, output.logits[:, :-1].exp().sum(1).log())


def test_the_real_logit_is_the_log_odds_of_the_softmax():
    logits = torch.randn(50, 8, dtype=torch.float64) * 5
    p_fake = logits.softmax(1)[:, -1]
    torch.testing.assert_close(real_logit(logits), ((1 - p_fake) / p_fake).log())
    assert real_logit(logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("head", ["kplus1", "logsumexp"])
def test_spectral_norm_bounds_all_but_the_class_head(head):
    discriminator = spectral(head=head)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    for _ in range(60):  # two forwards per step, as in training
        a, b = discriminator(torch.randn(8, 1, 32, 32)), discriminator(torch.randn(8, 1, 32, 32) + 1)
        optimizer.zero_grad()
        loss = torch.relu(1 - a.real_logits).mean() + torch.relu(1 + b.real_logits).mean()
        (loss + F.cross_entropy(a.logits, torch.arange(8))).backward()
        optimizer.step()
    bounded = [part for part in discriminator.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    bounded.remove(discriminator.class_head)
    assert len(bounded) == 4 + (head == "kplus1")
    for part in bounded:
        assert torch.linalg.svdvals(part.weight.detach().flatten(1))[0] == pytest.approx(1, abs=0.02)
    assert not hasattr(discriminator.class_head, "parametrizations")


def test_in_eval_mode_a_forward_changes_nothing_and_a_copy_agrees():
    discriminator = spectral()
    discriminator(torch.randn(8, 1, 32, 32))
    discriminator.eval()
    before = copy.deepcopy(discriminator.state_dict())
    x = torch.randn(2, 1, 32, 32)
    output = discriminator(x)
    assert all(torch.equal(value, before[name]) for name, value in discriminator.state_dict().items())
    again = spectral().eval()
    again.load_state_dict(before)
    for mine, other in zip(again(x), output, strict=True):
        assert torch.equal(mine, other)
