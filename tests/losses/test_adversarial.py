"""Adversarial losses, losses of a classifying discriminator, and regularizers against their formulas in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.two_ranks import on_two_ranks
from vqlab.losses.adversarial import (
    ADVERSARIAL,
    LeCam,
    adaptive_weight,
    balance_factor,
    consistency_loss,
    entropy_loss,
    feature_matching,
    gradient_penalty,
    is_ahead,
    pull_away,
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


# name -> (discriminator loss, generator loss) of lists of numbers
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
    discriminator_loss, generator_loss = FORMULAS[name]
    losses, numbers = ADVERSARIAL[name], (real.flatten().tolist(), fake.flatten().tolist())
    assert losses.discriminator(real, fake).item() == pytest.approx(discriminator_loss(*numbers), rel=1e-12)
    assert losses.generator(fake).item() == pytest.approx(generator_loss(numbers[1]), rel=1e-12)


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"lsgan"}))  # whose gradient grows with the distance
def test_generator_gradient_is_1_at_extreme_logits(name):
    fake = torch.tensor([-1e4], requires_grad=True)
    loss = ADVERSARIAL[name].generator(fake)
    loss.backward()
    assert loss.item() == 1e4
    assert fake.grad.item() == -1
    assert ADVERSARIAL[name].discriminator(torch.tensor([-1e4]), torch.tensor([1e4])).isfinite()


@pytest.mark.parametrize("name", FORMULAS)
def test_half_precision_is_averaged_in_float32(name):
    real, fake = logits(1000).bfloat16(), logits(1000).bfloat16()
    found = ADVERSARIAL[name].discriminator(real, fake)
    assert found.dtype == torch.float32
    exact = ADVERSARIAL[name].discriminator(real.double(), fake.double())
    assert found.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)


# Losses of a discriminator that classifies


def test_unsupervised_loss_is_the_log_probability_of_real_and_generated():
    real, fake = logits(20, 6, scale=3), logits(15, 6, scale=3)
    p_real, p_fake = 1 - real.softmax(1)[:, -1], fake.softmax(1)[:, -1]
    expected = -0.5 * (p_real.log().mean() + p_fake.log().mean())
    torch.testing.assert_close(unsupervised_loss(real, fake), expected)


@pytest.mark.parametrize("among_real", [True, False])
def test_supervised_loss_is_the_log_probability_of_the_label(among_real):
    rows, labels = logits(20, 6, scale=3), torch.randint(5, (20,))
    probabilities = rows.softmax(1)[:, :-1]
    if among_real:
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
    expected = -probabilities.gather(1, labels[:, None]).log().mean()
    torch.testing.assert_close(supervised_loss(rows, labels, among_real), expected)


@pytest.mark.parametrize("column", [0, -1])
@pytest.mark.parametrize("size", [100.0, -100.0])
def test_extreme_logits_have_finite_losses_and_gradients(size, column):
    rows, labels = torch.zeros(4, 6), torch.tensor([0, 1, 2, 3])
    rows[:, column] = size
    rows.requires_grad_()
    losses = [lambda x: unsupervised_loss(x, x), *(lambda x, r=r: supervised_loss(x, labels, r) for r in (True, False))]
    for loss in losses:
        assert loss(rows).item() == pytest.approx(loss(rows.detach().double()).item(), rel=1e-6, abs=1e-6)
    sum(loss(rows) for loss in losses).backward()
    assert rows.grad.isfinite().all()


def test_feature_matching_compares_means():
    real, fake = torch.randn(30, 7), torch.randn(20, 7)
    expected = ((real.mean(0) - fake.mean(0)) ** 2).mean()
    torch.testing.assert_close(feature_matching(real, fake), expected)
    torch.testing.assert_close(feature_matching(real.mean(0), fake), expected)
    assert feature_matching(real, real.flip(0)) < 1e-12
    assert feature_matching(real.bfloat16(), fake.bfloat16()).dtype == torch.float32


# Regularizers


def test_r1_of_a_quadratic():
    """D(x) = sum over patches j of x^T A_j x has the gradient sum_j (A_j + A_j^T) x."""
    x, matrices = logits(5, 3).requires_grad_(), logits(2, 3, 3).requires_grad_()
    penalty = r1_penalty(x, torch.einsum("bi,jik,bk->bj", x, matrices, x))
    symmetric = (matrices + matrices.mT).sum(0).detach()
    expected = mean((symmetric @ row).square().sum().item() / 2 for row in x.detach())
    assert penalty.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(penalty, matrices)
    outer = torch.einsum("bi,bk->ik", x.detach() @ symmetric, x.detach()) / 5
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


def test_only_update_changes_lecam_and_not_its_graph():
    lecam, real, fake = LeCam(), logits(4).requires_grad_(), logits(4)
    before = {name: value.clone() for name, value in lecam.state_dict().items()}
    loss = lecam(real, fake)
    assert all(torch.equal(value, before[name]) for name, value in lecam.state_dict().items())
    lecam.update(real, fake)
    loss.backward()
    torch.testing.assert_close(real.grad, 2 * real.detach() / 4)
    assert all(not torch.equal(value, before[name]) for name, value in lecam.state_dict().items())


def test_regularizers_of_half_batches_average_to_that_of_the_whole():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3)).double()
    x = logits(4, 2, 6, 6).requires_grad_()
    halves = [half.requires_grad_() for half in x.detach().chunk(2)]
    torch.testing.assert_close(sum(r1_penalty(half, net(half)) for half in halves) / 2, r1_penalty(x, net(x)))
    lecam, real, fake = LeCam(0.5).double(), logits(6), logits(6)
    lecam.update(real, fake)
    torch.testing.assert_close((lecam(real[:3], fake[:3]) + lecam(real[3:], fake[3:])) / 2, lecam(real, fake))


def test_gradient_penalty_uses_the_norm_over_all_inputs():
    a, b = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, 2, dtype=torch.float64)
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x, y: x @ weight + 2 * y.sum((1, 2)), (a, b), (a + 1, b - 1))
    expected = ((weight.square().sum() + 16).sqrt() - 1) ** 2  # the gradient of a linear critic is constant
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, weight)[0] for value in (penalty, expected)))


def test_gradient_penalty_interpolates_between_real_and_generated():
    seen = []
    gradient_penalty(lambda x: seen.append(x) or x.square().sum(1), [torch.zeros(50, 2)], [torch.ones(50, 2)])
    (between,) = seen
    assert 0 <= between.min() < 0.2
    assert 0.8 < between.max() <= 1
    assert torch.equal(between[:, 0], between[:, 1])  # one fraction per example


# Balance of discriminator and generator


@pytest.mark.parametrize(
    ("confidence", "factor"),
    # The discriminator loss is 2 ln(1 + e^-confidence): 0.0049, 0.053, 0.097, 0.25, 1.39 and 8.0.
    [(6.0, 0.2 / 0.6), (3.6, 0.35 / 0.6), (3.0, 0.5 / 0.6), (2.0, 1.0), (0.0, 1.0), (-4.0, 0.05 / 0.6)],
)
def test_balance_factor_is_low_for_a_confident_or_failing_discriminator(confidence, factor):
    real, fake = torch.full((3, 1, 2, 2), confidence), torch.full((5, 1, 2, 2), -confidence)
    assert balance_factor(real, fake).item() == pytest.approx(factor)


@pytest.mark.parametrize(("real", "fake", "ahead"), [(0.95, 0.91, True), (1.0, 0.9, False), (0.5, 1.0, False)])
def test_discriminator_is_ahead_if_accurate_on_real_and_generated(real, fake, ahead):
    assert is_ahead(torch.tensor(real), torch.tensor(fake)) == ahead


# Two ranks


def test_balance_is_computed_over_two_ranks(tmp_path):
    def work(rank):  # the first rank's discriminator is confident, the second's is at chance: the mean loss is 0.70
        confidence = torch.full((4,), [9.0, 0.0][rank])
        return balance_factor(confidence, -confidence), is_ahead(torch.tensor(1.0 - 0.3 * rank), torch.tensor(1.0))

    assert on_two_ranks(work, tmp_path) == [(torch.tensor(1.0), False)] * 2


def train(lecam, rank=0, world=1):
    """Adaptive weights, regularizers and moving averages of three batches of 8, split over the ranks."""
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 3, 3, padding=1)
    result = {"weights": [], "regularizers": []}
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        z, x = torch.randn(8, 4, 6, 6, generator=generator), torch.randn(8, 3, 6, 6, generator=generator)
        x[0] *= 20  # the gradients of the ranks differ a lot
        z, x = z.chunk(world)[rank], x.chunk(world)[rank]
        x_hat = conv(z).tanh()
        losses = F.mse_loss(x_hat, x), (x_hat * x).mean(1).square().mean()
        result["weights"].append(adaptive_weight(*losses, conv.weight))
        real, fake = x.mean((2, 3)), z.mean((2, 3))
        result["regularizers"].append(lecam(real, fake))
        lecam.update(real, fake)
    result = {name: torch.stack(values) for name, values in result.items()}
    return {**result, "averages": torch.stack([lecam.real_mean, lecam.fake_mean])}


def test_two_ranks_are_bit_identical_and_equal_one_process(tmp_path):
    lecam = LeCam(0.5)  # before the process group exists, as in Lightning
    ranks, alone = on_two_ranks(lambda rank: train(lecam, rank, 2), tmp_path), train(LeCam(0.5))
    for name in ("weights", "averages"):
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], alone[name], rtol=1e-5, atol=1e-6)
    own = torch.stack([rank["regularizers"] for rank in ranks])
    assert not torch.allclose(own[0], own[1])
    torch.testing.assert_close(own.mean(0), alone["regularizers"])


def test_entropy_loss_is_the_entropy_among_the_real_classes():
    rows = logits(20, 6)
    expected = torch.distributions.Categorical(logits=rows[:, :-1]).entropy().mean()
    torch.testing.assert_close(entropy_loss(rows), expected)
    rows[:, -1] += 7
    torch.testing.assert_close(entropy_loss(rows), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_consistency_is_the_cross_entropy_with_the_constant_target(temperature):
    logits, target = (torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    p = torch.distributions.Categorical(logits=logits[:, :-1])
    powers = target[:, :-1].softmax(1) ** (1 / temperature)
    q = torch.distributions.Categorical(powers / powers.sum(1, keepdim=True))
    expected = (torch.distributions.kl_divergence(q, p) + q.entropy()).mean()
    loss = consistency_loss(logits, target, temperature)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert target.grad is None


def test_pull_away_is_the_mean_squared_cosine_of_pairs():
    features = logits(7, 5)
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    expected = mean(F.cosine_similarity(features[i], features[j], dim=0).item() ** 2 for i, j in pairs)
    assert pull_away(features).item() == pytest.approx(expected, rel=1e-12)
    assert pull_away(features[:1].repeat(4, 1)).item() == pytest.approx(1)
