"""The losses of a classifying discriminator against the probabilities that they are logarithms of."""

import pytest
import torch

from vqlab.losses.adversarial import feature_matching, supervised_loss, unsupervised_loss


def logits(rows=20, classes=5):
    return torch.randn(rows, classes + 1, dtype=torch.float64) * 3


def test_unsupervised_is_the_log_probability_of_real_and_of_generated():
    real, fake = logits(), logits(15)
    p_real, p_fake = 1 - real.softmax(1)[:, -1], fake.softmax(1)[:, -1]
    expected = -0.5 * (p_real.log().mean() + p_fake.log().mean())
    torch.testing.assert_close(unsupervised_loss(real, fake), expected)


@pytest.mark.parametrize("among_real", [True, False])
def test_supervised_is_the_log_probability_of_the_label(among_real):
    rows, labels = logits(), torch.randint(5, (20,))
    probabilities = rows.softmax(1)[:, :-1]
    if among_real:
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
    expected = -probabilities.gather(1, labels[:, None]).log().mean()
    torch.testing.assert_close(supervised_loss(rows, labels, among_real), expected)


@pytest.mark.parametrize("size", [100.0, -100.0])
def test_extreme_logits_have_finite_losses_and_gradients(size):
    for column in (0, -1):
        rows = torch.zeros(4, 6)
        rows[:, column] = size
        rows.requires_grad_()
        exact = rows.detach().double()
        labels = torch.tensor([0, 1, 2, 3])
        pairs = [
            (unsupervised_loss(rows, rows), unsupervised_loss(exact, exact)),
            (supervised_loss(rows, labels, True), supervised_loss(exact, labels, True)),
            (supervised_loss(rows, labels, False), supervised_loss(exact, labels, False)),
        ]
        for value, expected in pairs:
            assert value.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
        sum(value for value, _ in pairs).backward()
        assert rows.grad.isfinite().all()


def test_feature_matching_compares_means():
    real, fake = torch.randn(30, 7), torch.randn(20, 7)
    expected = ((real.mean(0) - fake.mean(0)) ** 2).mean()
    torch.testing.assert_close(feature_matching(real, fake), expected)
    torch.testing.assert_close(feature_matching(real.mean(0), fake), expected)
    assert feature_matching(real, real.flip(0)) < 1e-12
    assert feature_matching(real.bfloat16(), fake.bfloat16()).dtype == torch.float32
