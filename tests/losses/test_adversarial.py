"""Adversarial losses and regularisers against their formulas in float64."""

import math

import pytest
import torch
from torch import nn

from tests.helpers.two_ranks import on_two_ranks
from vqlab.losses.adversarial import (
    ADVERSARIAL,
    LeCam,
    balance_factor,
    gradient_penalty,
    is_ahead,
    r1_penalty,
    supervised_loss,
    unsupervised_loss,
)


def logits(*shape, scale=2.0):
    return scale * torch.randn(*shape, dtype=torch.float64)


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def sigmoid(t):
    return 1 / (1 + math.exp(-t))


# name -> (discriminator's loss, generator's loss) of lists of numbers
FORMULAS = {
    "hinge": (
        lambda r, f: 0.5 * (mean(max(0, 1 - t) for t in r) + mean(max(0, 1 + t) for t in f)),
        lambda f: -mean(f),
    ),
    "non_saturating": (
        lambda r, f: -mean(math.log(sigmoid(t)) for t in r) - mean(math.log(1 - sigmoid(t)) for t in f),
        lambda f: -mean(math.log(sigmoid(t)) for t in f),
    ),
    "wgan": (lambda r, f: mean(f) - mean(r), lambda f: -mean(f)),
    "lsgan": (
        lambda r, f: 0.5 * (mean((t - 1) ** 2 for t in r) + mean((t + 1) ** 2 for t in f)),
        lambda f: 0.5 * mean((t - 1) ** 2 for t in f),
    ),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize(("real", "fake"), [((5,), (5,)), ((4, 1, 3, 2), (2, 1, 3, 2))])
def test_losses_equal_the_formulas(name, real, fake):
    real, fake = logits(*real), logits(*fake)
    of_discriminator, of_generator = FORMULAS[name]
    losses = ADVERSARIAL[name]
    flat = real.flatten().tolist(), fake.flatten().tolist()
    assert losses.discriminator(real, fake).item() == pytest.approx(of_discriminator(*flat), rel=1e-12)
    assert losses.generator(fake).item() == pytest.approx(of_generator(flat[1]), rel=1e-12)


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"lsgan"}))  # whose gradient grows with the distance
def test_extreme_logits_stay_finite_and_the_generator_keeps_its_gradient(name):
    fake = torch.tensor([-1e4], requires_grad=True)
    loss = ADVERSARIAL[name].generator(fake)
    loss.backward()
    assert loss.item() == 1e4
    assert fake.grad.item() == -1, "the discriminator has won, and the generator still learns"
    assert ADVERSARIAL[name].discriminator(torch.tensor([-1e4]), torch.tensor([1e4])).isfinite()


@pytest.mark.parametrize("name", FORMULAS)
def test_half_precision_is_averaged_in_float32(name):
    real, fake = logits(1000).bfloat16(), logits(1000).bfloat16()
    found, exact = (
        ADVERSARIAL[name].discriminator(real, fake),
        ADVERSARIAL[name].discriminator(real.double(), fake.double()),
    )
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)


def test_r1_of_a_quadratic():
    """D(x) = sum over patches j of x^T A_j x has the gradient sum_j (A_j + A_j^T) x."""
    x, matrices = logits(5, 3).requires_grad_(), logits(2, 3, 3).requires_grad_()
    answer = torch.einsum("bi,jik,bk->bj", x, matrices, x)
    penalty = r1_penalty(x, answer)
    symmetric = (matrices + matrices.mT).sum(0).detach()
    expected = mean((symmetric @ row).square().sum().item() / 2 for row in x.detach())
    assert penalty.item() == pytest.approx(expected, rel=1e-12)

    (gradient,) = torch.autograd.grad(penalty, matrices)
    h = x.detach() @ symmetric
    outer = torch.einsum("bi,bk->ik", h, x.detach()) / 5
    torch.testing.assert_close(gradient, (outer + outer.T).expand(2, 3, 3))


def test_lecam_equals_the_paper():
    lecam = LeCam(decay=0.9).double()
    real_mean = fake_mean = 0.0
    for step in range(4):
        real, fake = logits(3, 1, 2, 2) + step, logits(5, 1, 2, 2)
        reals, fakes = real.flatten().tolist(), fake.flatten().tolist()
        expected = mean((t - fake_mean) ** 2 for t in reals) + mean((t - real_mean) ** 2 for t in fakes)
        assert lecam(real, fake).item() == pytest.approx(expected, rel=1e-12)
        lecam.update(real, fake)
        real_mean, fake_mean = 0.9 * real_mean + 0.1 * mean(reals), 0.9 * fake_mean + 0.1 * mean(fakes)
        assert lecam.real_mean.item() == pytest.approx(real_mean, rel=1e-12)
        assert lecam.fake_mean.item() == pytest.approx(fake_mean, rel=1e-12)


def test_lecam_changes_in_update_alone_and_leaves_the_graph():
    lecam, real, fake = LeCam(), logits(4).requires_grad_(), logits(4)
    before = {name: value.clone() for name, value in lecam.state_dict().items()}
    loss = lecam(real, fake)
    assert all(torch.equal(value, before[name]) for name, value in lecam.state_dict().items())
    lecam.update(real, fake)
    loss.backward()
    torch.testing.assert_close(real.grad, 2 * real.detach() / 4)
    assert all(not torch.equal(value, before[name]) for name, value in lecam.state_dict().items())


def test_the_gradient_penalty_is_of_all_inputs_together():
    a, b = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, 2, dtype=torch.float64)
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    real, fake = (a, b), (a + 1, b - 1)
    penalty = gradient_penalty(lambda x, y: x @ weight + 2 * y.sum((1, 2)), real, fake)
    expected = ((weight.square().sum() + 16).sqrt() - 1) ** 2  # a linear critic has one gradient everywhere
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, weight)[0] for value in (penalty, expected)))


def test_the_gradient_penalty_looks_between_the_two():
    seen = []

    def critic(x):
        seen.append(x)
        return x.square().sum(1)

    gradient_penalty(critic, [torch.zeros(50, 2)], [torch.ones(50, 2)])
    (between,) = seen
    assert 0 <= between.min() < 0.2
    assert 0.8 < between.max() <= 1
    assert torch.equal(between[:, 0], between[:, 1])  # one place for all numbers of an example


@pytest.mark.parametrize(
    ("confidence", "factor"),
    # The discriminator's loss is 2 ln(1 + e^-confidence): 0.0049, 0.053, 0.097, 0.25, 1.39 and 8.0.
    [(6.0, 0.2 / 0.6), (3.6, 0.35 / 0.6), (3.0, 0.5 / 0.6), (2.0, 1.0), (0.0, 1.0), (-4.0, 0.05 / 0.6)],
)
def test_the_adversarial_weight_is_lower_for_a_confident_or_failing_discriminator(confidence, factor):
    real, fake = torch.full((3, 1, 2, 2), confidence), torch.full((5, 1, 2, 2), -confidence)
    assert balance_factor(real, fake).item() == pytest.approx(factor)


@pytest.mark.parametrize(("real", "fake", "waits"), [(0.95, 0.91, True), (1.0, 0.9, False), (0.5, 1.0, False)])
def test_a_discriminator_is_ahead_if_it_is_accurate_on_both_sides(real, fake, waits):
    assert is_ahead(torch.tensor(real), torch.tensor(fake)) == waits


def test_two_ranks_balance_as_one(tmp_path):
    def work(rank):  # the first rank's discriminator is confident, the second's is at chance: 0.70 in all
        confidence = torch.full((4,), [9.0, 0.0][rank])
        return balance_factor(confidence, -confidence), is_ahead(torch.tensor(1.0 - 0.3 * rank), torch.tensor(1.0))

    assert on_two_ranks(work, tmp_path) == [(torch.tensor(1.0), False)] * 2


@pytest.mark.parametrize("size", [100.0, -100.0])
def test_extreme_logits_have_finite_losses_and_gradients(size):
    rows = torch.zeros(4, 6)
    rows[:, -1] = size
    rows.requires_grad_()
    labels = torch.tensor([0, 1, 2, 3])
    losses = [lambda x: unsupervised_loss(x, x), *(lambda x, r=r: supervised_loss(x, labels, r) for r in (True, False))]
    for loss in losses:
        assert loss(rows).item() == pytest.approx(loss(rows.detach().double()).item(), rel=1e-6, abs=1e-6)
    sum(loss(rows) for loss in losses).backward()
    assert rows.grad.isfinite().all()


def test_r1_of_half_batches_averages_to_the_whole():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3)).double()
    x = logits(4, 2, 6, 6).requires_grad_()
    halves = [half.requires_grad_() for half in x.detach().chunk(2)]
    torch.testing.assert_close(sum(r1_penalty(half, net(half)) for half in halves) / 2, r1_penalty(x, net(x)))


def test_lecam_of_half_batches_averages_to_the_whole():
    lecam, real, fake = LeCam(0.5).double(), logits(6), logits(6)
    lecam.update(real, fake)
    halves = (lecam(real[:3], fake[:3]) + lecam(real[3:], fake[3:])) / 2
    torch.testing.assert_close(halves, lecam(real, fake))
