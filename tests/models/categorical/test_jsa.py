"""JSA against enumeration of all codes: gradients, bounds and learning."""

import lightning
import pytest
import torch

from tests.helpers.bare import BARE
from tests.helpers.grid import Data, fit, grid
from tests.helpers.models import assert_same_weights, build
from tests.helpers.refusal import refused
from tests.helpers.toy import CODES, NUMBER, VALUES, VARIABLES, all_joints, all_proposals, images, parts, sharpened
from vqlab.models import JSA, DiscreteVAE, PosteriorSampler
from vqlab.nn import Gaussian, Transformer
from vqlab.samplers import ChainCache


def gradients(model, x, rows):
    """Return the gradients of one step for p and q, flat, from chains in the states CODES[rows]."""
    model.chains = ChainCache(len(x), VARIABLES, VALUES)
    if rows is not None:
        model.chains.put(torch.arange(len(x)), CODES[rows].flatten(1), torch.ones(len(x), dtype=torch.bool))
    model.zero_grad()
    model.seed += 1  # new draws
    model.compute_loss(model.latent.observe(x), torch.arange(len(x))).loss.backward()
    return flat_gradients(model)


def flat_gradients(model):
    joint, tables, proposal = model.latent.parameter_groups()
    return [torch.cat([p.grad.flatten() for p in group]) for group in ([*joint, *tables], proposal)]


def exact_gradients(model, x):
    """Return the gradients of -ln p(x) for p, and of KL(p(h | x) || q) for q."""
    joints = all_joints(model, x)
    posterior = joints.log_softmax(1).detach().exp()
    loss = -joints.logsumexp(1).mean() - (posterior * all_proposals(model, x)).sum(1).mean()
    model.zero_grad()
    loss.backward()
    return flat_gradients(model)


def set_kernel(model, kernel, steps, whole_steps=0):
    settings = PosteriorSampler(steps, kernel, whole_steps, block_size=2, cache_start_epoch=0)
    model.sampler = model.latent.sampler = settings
    model.latent.register_buffer("step_size", torch.tensor(30.0))  # the embeddings are few and far apart


@pytest.fixture
def problem():
    """An untrained model, and 8 images, each 25 times."""
    model = sharpened(3, 2.5)
    model.sampler = PosteriorSampler(num_mis_steps=5, cache_start_epoch=0)
    return model, images(sharpened(5, 2.5), 8, 0).repeat(25, 1, 1, 1)


def test_gradient_is_unbiased_from_posterior_and_biased_without_cache(problem):
    model, x = problem
    posterior = all_joints(model, x).softmax(1).detach()
    exact = exact_gradients(model, x)
    drawn = {"posterior": [], "fresh": []}
    for _ in range(60):  # x 25 copies = 1,500 draws per image
        drawn["posterior"].append(gradients(model, x, torch.multinomial(posterior, 1)[:, 0]))
        drawn["fresh"].append(gradients(model, x, None))
    for part in range(2):
        draws = torch.stack([pair[part] for pair in drawn["posterior"]])
        assert torch.cosine_similarity(draws.mean(0), exact[part], dim=0) >= 0.995
        error = draws.std(0) / len(draws) ** 0.5
        within = ((draws.mean(0) - exact[part]).abs() <= 3 * error + 1e-7).float().mean()
        assert within >= 0.98
    fresh = torch.stack([pair[1] for pair in drawn["fresh"]]).mean(0)
    assert torch.cosine_similarity(fresh, exact[1], dim=0) <= 0.9


@pytest.mark.parametrize("kernel", ["block_mis", "ncg", "gibbs"])
def test_gradient_of_block_kernels_is_unbiased_from_posterior(problem, kernel):
    model, x = problem
    set_kernel(model, kernel, 5)
    posterior = all_joints(model, x).softmax(1).detach()
    exact = exact_gradients(model, x)
    drawn = [gradients(model, x, torch.multinomial(posterior, 1)[:, 0]) for _ in range(40)]
    for part in range(2):
        found = torch.stack([pair[part] for pair in drawn]).mean(0)
        assert torch.cosine_similarity(found, exact[part], dim=0) >= 0.995


@pytest.mark.parametrize("kernel", ["mis", "mis_rb", "isir", "block_mis", "ncg", "gibbs"])
def test_gradient_over_visited_states_equals_gradient_over_all_states(problem, kernel):
    model, x = problem
    x = x[:6]
    set_kernel(model, kernel, 5)
    chain, terms = model.run_chains(x, model.latent.log_q(x).detach(), None)
    model.run_chains = lambda *args: (chain, terms)
    model.zero_grad()
    model.compute_loss(x, None).loss.backward()
    found = flat_gradients(model)
    model.zero_grad()
    total = 0
    for step in range(chain.states.shape[1]):
        codes = model.latent.to_map(chain.states[:, step])
        total = total - (chain.weights[:, step] * (model.log_joint(x, codes) + model.log_proposal(x, codes))).mean()
    total.backward()
    torch.testing.assert_close(found, flat_gradients(model), atol=1e-5, rtol=1e-5)


def test_gradient_does_not_depend_on_decode_chunk(problem):
    model, x = problem
    whole = gradients(model, x[:20], torch.zeros(20, dtype=torch.int64))
    model.latent.decode_chunk, model.seed = 7, model.seed - 1
    in_chunks = gradients(model, x[:20], torch.zeros(20, dtype=torch.int64))
    torch.testing.assert_close(in_chunks, whole, atol=1e-5, rtol=1e-5)


def test_densities_are_normalised():
    model = sharpened(1, 1.5)
    every = torch.tensor([[(n >> bit) & 1 for bit in range(16)] for n in range(2**16)]).float().view(-1, 1, 4, 4)
    with torch.no_grad():
        joints = [model.log_joint(every, CODES[k : k + 1].expand(2**16, -1, -1, -1)) for k in (0, 17)]
        prior = model.latent.prior.log_prob(CODES.flatten(1))
        torch.testing.assert_close(torch.stack(joints).logsumexp(1), prior[[0, 17]], atol=1e-3, rtol=0)
        torch.testing.assert_close(all_proposals(model, every[:5]).logsumexp(1), torch.zeros(5), atol=1e-5, rtol=0)
        torch.testing.assert_close(prior.logsumexp(0), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_bounds_contain_exact_likelihood():
    """ELBO <= ln p(x) <= chain; 5,000 importance samples are within 0.01 nats; the gaps are the divergences."""
    model = sharpened(2, 1.5)
    x = images(sharpened(4, 1.5), 100, 1)
    with torch.no_grad():
        joints, proposals = all_joints(model, x), all_proposals(model, x)
        exact, posterior = -joints.logsumexp(1), joints.log_softmax(1)
        divergence = (posterior.exp() * (posterior - proposals)).sum(1).mean()
        bounds = [bound.mean() for bound in model.bounds(x, 5000)]
    assert bounds[0] > exact.mean() + 0.1 > exact.mean() - 0.1 > bounds[2]
    assert abs(model.nll(x, 5000).mean() - exact.mean()) < 0.01
    assert bounds[2] + divergence == pytest.approx(exact.mean().item(), abs=0.02)


@pytest.mark.parametrize(
    ("kernel", "prior", "whole_steps"),
    [
        *((k, "factorized", 0) for k in ("mis", "block_mis", "ncg", "gibbs")),
        ("block_mis", "factorized", 3),
        ("ncg", "transformer", 0),
    ],
)
def test_posterior_samples_follow_the_posterior(kernel, prior, whole_steps):
    model = sharpened(2, 1.5)
    if prior == "transformer":
        model.latent.prior = Transformer(VALUES, VARIABLES, num_codebooks=VARIABLES, dim=4, depth=1, heads=1).eval()
    set_kernel(model, kernel, 10, whole_steps)
    x = images(model, 1, 3)
    posterior = all_joints(model, x).softmax(1)[0].detach()
    assert (all_proposals(model, x)[0].exp() - posterior).abs().sum() / 2 > 0.1
    codes = model.sample_posterior(x.expand(30_000, -1, -1, -1), steps=80 if kernel == "mis" else 24)
    found = torch.bincount((codes.flatten(1) * NUMBER).sum(1), minlength=64) / 30_000
    assert (found - posterior).abs().sum() / 2 < 0.03


def test_samples_follow_every_prior():
    transformer = Transformer(VALUES, VARIABLES, num_codebooks=VARIABLES, dim=8, depth=1, heads=2)
    for prior in ("uniform", "factorized", transformer):
        model = build(JSA, **parts(prior=prior)).eval()
        if prior == "factorized":
            model.latent.prior.logits.data.normal_()
        expected = model.latent.log_prior(CODES.flatten(1)).exp()
        assert expected.sum().item() == pytest.approx(1, abs=1e-5)
        seen = []
        model.latent.decode = seen.append
        model.sample(20_000)
        found = torch.bincount((seen[0].flatten(1) * NUMBER).sum(1), minlength=64) / 20_000
        assert (found - expected).abs().sum() / 2 < 0.04


def test_smoothing_bounds_q_from_below():
    model = build(JSA, **parts(smoothing=0.1)).eval()
    with torch.no_grad():
        model.quantizer.logits.weight.mul_(1000)
        log_q = model.latent.log_q(torch.rand(5, 1, 4, 4))
    assert log_q.exp().sum(-1).allclose(torch.ones(5, VARIABLES), atol=1e-5)
    assert log_q.exp().min() >= 0.1 / VALUES - 1e-6


def exact_nll(model, x, index=None):
    return -all_joints(model, x).logsumexp(1).mean()


def train(x, cls, loss=lambda model, x, index: model.compute_loss(x, index).loss, **options):
    """Train 1,000 steps without a Trainer; return the exact negative log-likelihood."""
    torch.manual_seed(0)
    model = build(cls, **parts(**options))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    if cls is JSA and model.sampler.cache:
        model.chains = ChainCache(len(x), VARIABLES, VALUES)
    for step in range(1000):
        if step % 4 == 0:
            order = torch.randperm(200)
        index = order[step % 4 * 50 :][:50]
        model.seed = step  # new draws
        optimizer.zero_grad()
        loss(model, x[index], index).backward()
        optimizer.step()
    return exact_nll(model, x).item()


@pytest.mark.slow
def test_jsa_is_close_to_exact_gradients_and_better_than_alternatives():
    """The exact likelihood of 200 images after the same number of steps from the same weights."""
    x = images(sharpened(7, 2.0), 200, 0)
    jsa = train(x, JSA, num_mis_steps=5, cache_start_epoch=0)
    assert jsa <= train(x, JSA, exact_nll) + 0.15
    assert jsa <= train(x, JSA, num_mis_steps=5, cache=False) - 0.05
    assert jsa <= train(x, DiscreteVAE, estimator="rloo") - 0.10


def test_steps_are_batches_and_base_lr_is_scaled():
    model = grid(base_lr=4.5e-7, proposal_lr=1e-3)
    run = fit(model)
    assert run.global_step == 6
    assert model.latent.likelihood.steps == 6
    groups = run.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([4.5e-7 * 16, 4.5e-7 * 16, 1e-3])
    parameters = [p for group in groups for p in group["params"]]
    assert len(parameters) == len(set(parameters)) == len(list(model.parameters()))


def test_two_accumulated_batches_equal_one_twice_as_large(monkeypatch):
    def numbers(model, x, count, index):  # draws depend on the step, so all batches get those of the first
        return torch.rand(64, count, generator=torch.Generator().manual_seed(3))[index]

    monkeypatch.setattr("vqlab.models.categorical.training.uniform_numbers", numbers)

    first, second = (grid(likelihood=Gaussian(0.3), cache=False, accumulate=count) for count in (1, 2))
    fit(first, torch.utils.data.DataLoader(Data().train_dataloader().dataset, batch_size=32), max_steps=2)
    fit(second, max_steps=4)
    assert_same_weights(second, first, rtol=1e-4, atol=1e-5)


def test_chain_under_autocast_equals_float32():
    """With a sharp likelihood, sigma = 0.02."""
    model = grid(likelihood=Gaussian(0.02), cache=False, num_mis_steps=20)
    x, index = torch.rand(64, 1, 16, 16) * 2 - 1, torch.arange(64)
    log_q = model.latent.log_q(x).detach()
    model._trainer = lightning.Trainer(**BARE)
    expected, _ = model.run_chains(x, log_q, index)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = model.run_chains(x, log_q, index)
    assert (found.accepted == expected.accepted).float().mean() >= 0.995
    assert expected.accepted.float().mean() > 0.05


def test_codes_of_users_are_checked():
    model = grid(num_latents=2).eval()
    x = torch.rand(2, 1, 16, 16)
    codes = model.encode(x)
    assert torch.equal(model.decode(codes.numpy().astype("int16")), model.decode(codes))
    for call in (model.decode, lambda codes: model.log_joint(x, codes), lambda codes: model.log_proposal(x, codes)):
        with refused("codes must be (B, 4, 4"):
            call(codes.flatten(1))
        with refused("code 16 lies outside 0 .. 15"):
            call(torch.full_like(codes, 16))
        with refused("integers"):
            call(codes.float())


def test_images_of_the_top_codes_use_only_those():
    model = grid(num_latents=2).eval()
    images = torch.rand(2, 1, 16, 16)
    counts = torch.rand(2, 16).argsort(1)  # of two codebooks, without ties
    shown = model.top_code_images({"image": images}, counts.flatten())
    assert list(shown) == ["input", "all codes", "top 4", "top 1"]
    assert torch.equal(shown["all codes"], model.value_range.decode(model.reconstruct(images)))
    most = counts.argmax(1).expand(2, 4, 4, 2)
    assert torch.equal(shown["top 1"], model.value_range.decode(model.decode(most)))
    log_q = model.latent.log_q(model.latent.observe(images)).view(2, 16, 2, 16)
    allowed = [max((k for k in range(16) if counts[v, k] >= 12), key=lambda k: log_q[1, 5, v, k]) for v in (0, 1)]
    assert torch.equal(encoded(model, images, counts, 4)[1, 1, 1], torch.tensor(allowed))


def encoded(model, images, counts, top_k):
    """Return the codes that ``top_code_images`` decodes for the ``top_k`` most frequent codes."""
    seen = []
    model.latent.decode = lambda codes: seen.append(codes) or torch.zeros(1)
    names = list(model.top_code_images({"image": images}, counts.flatten()))
    del model.latent.decode
    return seen[names.index(f"top {top_k}") - 1]


def test_whole_proposals_come_before_the_blocks(problem):
    model, x = problem
    log_q = model.latent.log_q(x).detach()
    uniform = torch.rand(len(x), 10, VARIABLES + 1)
    initial = torch.zeros(len(x), VARIABLES, dtype=torch.int64)
    set_kernel(model, "mis", 6)
    whole = model.latent.run_chain(x, log_q, initial, uniform[:, :6])
    set_kernel(model, "block_mis", 3)
    expected = model.latent.run_chain(x, log_q, whole.last, uniform[:, 6:])
    set_kernel(model, "block_mis", 3, whole_steps=6)
    found = model.latent.run_chain(x, log_q, initial, uniform)
    assert (whole.last != initial).any()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), "states, weights, last or accepted"
