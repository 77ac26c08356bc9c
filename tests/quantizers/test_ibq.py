"""IBQ against the paper's formulas with all N x K probabilities in float64, and against gradients in closed form."""

import math

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.quantizers import chunks
from vqlab.quantizers.ibq import IBQ

K, D = 9, 4


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(*args, **kwargs):
    return IBQ(K, D, *args, **kwargs).double()


def softmax(scores):
    powers = (scores - scores.max(1, keepdim=True).values).exp()
    return powers / powers.sum(1, keepdim=True)


def entropy(probs):
    return -(probs * probs.clamp_min(1e-300).log()).sum(-1)


def restated(z, codebook, commitment_weight, entropy_weight, temperature):
    """(q, loss, terms), with Ind = one_hot + p - sg(p) and q = Ind C (section 3.2)."""
    scores = torch.stack([(z * code).sum(1) for code in codebook], 1)
    one_hot = (scores == scores.max(1, keepdim=True).values).double()
    p = softmax(scores)
    q = (one_hot + p - p.detach()) @ codebook
    c = one_hot @ codebook
    size = z.numel()
    double = ((q - z) ** 2).sum() / size + ((c.detach() - z) ** 2).sum() / size
    loss = double + commitment_weight * ((c - z.detach()) ** 2).sum() / size
    terms = {"double_quantization_loss": double}
    if entropy_weight:
        sharp = softmax(scores / temperature)
        terms["sample_entropy"] = entropy(sharp).mean()
        terms["batch_entropy"] = entropy(sharp.mean(0))
        loss = loss + entropy_weight * (terms["sample_entropy"] - terms["batch_entropy"])
    return q, loss, terms


def test_the_code_of_the_largest_inner_product_is_taken():
    quantizer = make()
    z = rand(5, D, 6, seed=1)
    out = quantizer(z)
    rows = z.movedim(1, -1).reshape(-1, D)
    codes = quantizer.codebook.detach()
    largest = [max(range(K), key=(codes @ row).tolist().__getitem__) for row in rows]
    assert out.indices.flatten().tolist() == largest
    assert torch.equal(out.quantized.movedim(1, -1).reshape(-1, D), codes[largest])
    nearest = torch.cdist(rows, codes).argmin(1).tolist()
    assert largest != nearest  # the codes have different lengths, so that the two rules differ
    assert out.stats is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "weights", [(0.25, 0.05, 0.01), (0.7, 0.4, 1.0), (0.0, 0.3, 0.2), (0.5, 0.0, 0.01), (0.0, 0.0, 5.0)]
)
def test_loss_terms_and_gradients(weights, training):
    quantizer = make(*weights).train(training)
    z = rand(40, D, seed=2).requires_grad_()
    codebook = quantizer.codebook.detach().clone().requires_grad_()
    out = quantizer(z)
    q, loss, terms = restated(z, codebook, *weights)
    torch.testing.assert_close(out.quantized, q)
    torch.testing.assert_close(out.loss, loss, rtol=1e-9, atol=1e-9)
    assert out.terms.keys() == terms.keys()
    for name, term in terms.items():
        torch.testing.assert_close(out.terms[name], term.detach(), rtol=1e-9, atol=1e-9)
        assert not out.terms[name].requires_grad
    ours = torch.autograd.grad(out.loss, [z, quantizer.codebook])
    for a, b in zip(ours, torch.autograd.grad(loss, [z, codebook]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_gradient_of_the_output_in_closed_form():
    """dq/dz = Cov_p(c), the covariance of the codes under p; every code moves, through p, and the drawn ones twice."""
    quantizer = make()
    z, g = rand(30, D, seed=3).requires_grad_(), rand(30, D, seed=4)
    out = quantizer(z)
    out.quantized.backward(g)
    codes = quantizer.codebook.detach()
    p = softmax(z.detach() @ codes.T)
    by_row = []
    for n in range(30):
        mean = p[n] @ codes
        by_row.append(sum(p[n, k] * torch.outer(codes[k] - mean, codes[k] - mean) for k in range(K)) @ g[n])
    torch.testing.assert_close(z.grad, torch.stack(by_row), rtol=1e-10, atol=1e-12)
    expected = torch.zeros(K, D).double()
    for n in range(30):
        expected[out.indices[n]] += g[n]
        scores = codes @ g[n]
        expected += torch.outer(p[n] * (scores - p[n] @ scores), z[n].detach())
    torch.testing.assert_close(quantizer.codebook.grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("what", ["quantized", "loss"])
def test_every_code_gets_a_gradient_from_one_vector(what):
    quantizer = IBQ(50, D, entropy_weight=0.0)
    out = quantizer(rand(1, D, seed=5).float())
    getattr(out, what).sum().backward()
    assert (quantizer.codebook.grad.abs().sum(1) > 0).all()


def test_entropies_at_the_limits_of_the_temperature():
    z = rand(200, D, seed=6)
    hot = make(temperature=1e6)(z)
    assert hot.terms["sample_entropy"].item() == pytest.approx(math.log(K), abs=1e-6)
    assert hot.terms["batch_entropy"].item() == pytest.approx(math.log(K), abs=1e-6)
    cold = make(temperature=1e-6)(z)
    shares = torch.bincount(cold.indices, minlength=K).double() / 200
    assert cold.terms["sample_entropy"] < 1e-6
    torch.testing.assert_close(cold.terms["batch_entropy"], entropy(shares), rtol=0, atol=1e-6)


def test_the_temperature_is_that_of_the_entropies_alone():
    z, g = rand(30, D, seed=7).requires_grad_(), rand(30, D, seed=8)
    outs = [make(temperature=temperature)(z) for temperature in (0.01, 10.0)]
    first, second = (torch.autograd.grad(out.quantized, z, g)[0] for out in outs)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=0)
    assert outs[0].terms["double_quantization_loss"] == outs[1].terms["double_quantization_loss"]


@pytest.mark.parametrize("entropy_weight", [0.3, 0.0])
@pytest.mark.parametrize("elements", [1, K * 7])
def test_blocks_give_the_result_of_one_block(monkeypatch, entropy_weight, elements):
    quantizer = make(0.4, entropy_weight, 0.5)
    z, g = rand(20, D, seed=9).requires_grad_(), rand(20, D, seed=10)

    def run():
        out = quantizer(z)
        return out, torch.autograd.grad((out.quantized * g).sum() + out.loss, [z, quantizer.codebook])

    (whole, expected), _ = run(), monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", elements)
    out, grads = run()
    assert torch.equal(out.indices, whole.indices)
    assert torch.equal(out.quantized, whole.quantized)
    for a, b in zip(
        (out.loss, *out.terms.values(), *grads), (whole.loss, *whole.terms.values(), *expected), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_huge_inputs_stay_finite():
    quantizer = IBQ(K, D)
    z = (1e4 * rand(20, D, seed=11).float()).requires_grad_()
    out = quantizer(z)
    (out.quantized.sum() + out.loss).backward()
    assert out.loss.isfinite()
    assert z.grad.isfinite().all()
    assert quantizer.codebook.grad.isfinite().all()


def test_a_few_steps_bring_codes_and_vectors_together():
    torch.manual_seed(0)
    centers = 3 * torch.randn(6, D)
    quantizer = IBQ(12, D)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.03)
    losses = []
    for _ in range(150):
        out = quantizer(centers[torch.randint(6, (64,))] + 0.1 * torch.randn(64, D))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.terms["double_quantization_loss"].item())
    assert losses[-1] < losses[0] / 5


def test_the_seed_draws_the_codes():
    first, same, other = (IBQ(500, 20, seed=seed).codebook.detach() for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.isclose(first, other).all(1).any()
    assert first.mean().item() == pytest.approx(0, abs=0.05)
    assert first.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_embeddings": 0}, ("num_embeddings must be at least 1, got 0", "--model.quantizer.num_embeddings=512")),
        ({"embedding_dim": 0}, ("embedding_dim must be at least 1, got 0", "--model.quantizer.embedding_dim=32")),
        ({"commitment_weight": -0.5}, ("commitment_weight must be finite and not negative, got -0.5", "0.25 is usual")),
        ({"entropy_weight": math.nan}, ("entropy_weight must be finite and not negative, got nan", "0.05 is usual")),
        ({"temperature": 0.0}, ("temperature must be finite and above 0, got 0.0", "0.01 is usual")),
        ({"temperature": -1.0}, ("temperature must be finite and above 0, got -1.0", "0.01 is usual")),
    ],
)
def test_refusals(change, words):
    with refused(*words):
        IBQ(**change)


def test_one_code_is_enough():
    out = IBQ(1, 1)(torch.randn(3, 1))
    assert not out.indices.any()
    assert out.terms["batch_entropy"].abs() < 1e-6
