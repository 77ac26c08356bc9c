"""DiscreteVAE: losses against enumeration, and learning with each estimator."""

import pytest
import torch

from tests.helpers.models import build
from tests.helpers.toy import CODES, all_joints, all_proposals, images, parts, sharpened
from vqlab.models import DiscreteVAE

ESTIMATORS = ("gumbel", "st_gumbel", "rloo", "vimco")


def model_of(estimator, **options):
    torch.manual_seed(0)
    return build(DiscreteVAE, estimator=estimator, **parts(**options))


def test_kl_of_relaxation_is_exact():
    model = model_of("gumbel").eval()
    model.latent.prior.logits.data.normal_()
    x = images(sharpened(1, 2.0), 5, 0)
    log_q, log_p = all_proposals(model, x), model.latent.prior.log_prob(CODES.flatten(1))
    expected = (log_q.exp() * (log_q - log_p)).sum(1).mean()
    found = model.compute_loss(x, None).terms["kl"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_straight_through_decodes_codes_and_gumbel_decodes_mixtures():
    x = images(sharpened(1, 2.0), 50, 0)
    for estimator, decodes_codes in (("st_gumbel", True), ("gumbel", False)):
        model = model_of(estimator, prior="uniform")
        output = model.compute_loss(x, None)
        log_joint = model.latent.log_joint(x, model.latent.to_map(output.codes))
        expected = (model.latent.log_prior(output.codes) - log_joint).mean()
        assert torch.isclose(output.terms["distortion"], expected, rtol=1e-4).item() is decodes_codes


def test_mean_of_single_sample_bounds_is_elbo():
    model = model_of("rloo", num_samples=64).eval()
    x = images(sharpened(1, 2.0), 20, 0)
    log_q = all_proposals(model, x)
    elbo = (log_q.exp() * (all_joints(model, x) - log_q)).sum(1).mean()
    found = torch.stack([model.compute_loss(x, None).terms["nll_elbo"] for _ in range(50)]).mean()
    assert found.item() == pytest.approx(-elbo.item(), abs=0.02)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_training_lowers_exact_nll(estimator):
    x = images(sharpened(7, 2.0), 100, 0)
    model = model_of(estimator)
    before = -all_joints(model, x).logsumexp(1).mean().item()
    joint, tables, proposal = model.latent.parameter_groups()
    optimizer = torch.optim.Adam([*joint, *tables, *proposal], lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model.compute_loss(x, None).loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
    assert -all_joints(model, x).logsumexp(1).mean().item() < before - 0.5
