"""MaskedPrior: likelihoods and draws against enumeration, learning of known sources, inpainting, checkpoints."""

import itertools
import math

import pytest
import torch
from torch import nn

import vqlab
from tests.helpers.bare import trainer, validate
from tests.helpers.models import build
from tests.helpers.refusal import refused
from tests.helpers.toy_codes import Pixels, as_images, loader, markov, walks
from vqlab.models import VQVAE, MaskedPrior
from vqlab.quantizers import ResidualQuantizer, VectorQuantizer
from vqlab.samplers.tokens import guide

SMALL = {"dim": 32, "depth": 1, "heads": 2, "dropout": 0.0}
EVERY = torch.tensor(list(itertools.product(range(3), repeat=4)))  # all 81 codes of the toy


def toy(**options):
    """Return a prior over 2 x 2 codes of 3, with large weights."""
    torch.manual_seed(1)
    model = build(MaskedPrior, Pixels(3, 2), **SMALL, conditional=True, num_classes=2, **options).eval()
    for weight in model.network.parameters():
        nn.init.normal_(weight, std=0.4)
    return model


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
def test_probabilities_of_all_codes_sum_to_one_in_any_order(order):
    model, x = toy(), as_images(EVERY.view(-1, 2, 2), 3)
    for label in (0, -1):
        nll = model.nll(x, torch.full((81,), label), order=torch.tensor(order))
        assert (-nll.double()).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert nll.std() > 0.1


def test_orders_are_given_together_per_image_or_drawn():
    model, x = toy(), as_images(EVERY[:3].view(-1, 2, 2), 3)
    orders = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
    each = torch.stack([model.nll(x, order=order)[n] for n, order in enumerate(orders)])
    torch.testing.assert_close(model.nll(x, order=orders), each)
    assert torch.equal(model.nll(x), model.nll(x))
    with refused("order must hold permutations of 0 .. 3, got [0, 1, 1, 2]"):
        model.nll(x, order=torch.tensor([0, 1, 1, 2]))


def test_estimate_from_one_pass_has_the_mean_over_all_orders():
    """The mean over 20,000 masks lies within 4 standard errors of the mean over all 24 orders."""
    model, number = toy(), 20_000
    tokens = torch.tensor([[2, 0, 1, 1]])
    orders = torch.tensor(list(itertools.permutations(range(4))))
    x = as_images(tokens.view(1, 2, 2), 3)
    with torch.no_grad():
        exact = torch.stack([model.nll(x, order=order) for order in orders]).mean() / 4
        nll = model.token_nll(tokens.expand(number, 4), model.as_condition(None, number), torch.arange(number))
    error = nll.mean(1).std() / number**0.5
    assert nll.mean().item() == pytest.approx(exact.item(), abs=4 * error.item())
    assert error < 0.01 * exact


def test_validation_does_not_depend_on_batches():
    model = toy()
    codes = torch.randint(3, (60, 2, 2))
    found = [validate(model, loader(codes, 3, batch_size=size)) for size in (60, 7)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def exact_distribution(model, steps, label, guidance, top_k):
    """Return the probabilities (81,) of all codes, by enumeration of all draws, with choice_temperature 0."""
    tokens, masked, weight = torch.zeros(1, 4).long(), torch.ones(1, 4).bool(), torch.ones(1)
    for step in range(1, steps + 1):
        logits, free = (model.network(tokens, masked, torch.full((len(tokens),), c)) for c in (label, 2))
        logits = guide(logits, free, guidance)
        kept = logits.topk(top_k, -1)
        probs = torch.zeros_like(logits).scatter(-1, kept.indices, kept.values.softmax(-1))
        log_probs = logits.log_softmax(-1)
        states: dict[tuple, float] = {}
        remaining = math.floor(math.cos(math.pi / 2 * step / steps) * 4 + 1e-12)
        for row, hidden, p, logp, w in zip(tokens, masked, probs, log_probs, weight, strict=True):
            places = hidden.nonzero()[:, 0].tolist()
            for drawn in itertools.product(range(3), repeat=len(places)):
                new, confidence, chance = row.tolist(), {}, w.item()
                for place, code in zip(places, drawn, strict=True):
                    new[place], confidence[place] = code, logp[place, code].item()
                    chance *= p[place, code].item()
                left = frozenset(sorted(places, key=lambda place: confidence[place])[: min(remaining, len(places) - 1)])
                new = tuple(0 if place in left else code for place, code in enumerate(new))
                states[new, left] = states.get((new, left), 0.0) + chance
        states = {state: chance for state, chance in states.items() if chance > 0}
        tokens = torch.tensor([codes for codes, _ in states])
        masked = torch.tensor([[place in left for place in range(4)] for _, left in states])
        weight = torch.tensor(list(states.values()))
    assert not masked.any()
    return torch.zeros(81).index_add(0, number_of(tokens), weight)


def number_of(tokens):
    return (tokens * torch.tensor([27, 9, 3, 1])).sum(1)


@pytest.mark.parametrize(("steps", "guidance", "top_k"), [(1, 1.0, 3), (2, 1.0, 3), (3, 2.0, 3), (4, 1.0, 2)])
def test_frequencies_of_draws_equal_enumeration(steps, guidance, top_k):
    model, number = toy(), 20_000
    options = {"steps": steps, "guidance": guidance, "top_k": top_k, "choice_temperature": 0.0}
    with torch.no_grad():
        expected = exact_distribution(model, steps, 1, guidance, top_k) * number
    drawn = model.sample_codes(number, 1, **options, generator=torch.Generator().manual_seed(3)).flatten(1)
    counts = torch.bincount(number_of(drawn), minlength=81)
    assert counts[expected == 0].sum() == 0
    chi_square = ((counts - expected) ** 2 / expected.clamp_min(1)).sum().item()
    assert chi_square < 80 + 5 * (2 * 80) ** 0.5


def test_a_large_choice_temperature_fixes_random_places():
    """After the first of two passes, 2 of 4 places are masked again: each place equally often."""
    model, seen = toy(), []
    network = model.network.forward
    model.network.forward = lambda tokens, masked, condition: seen.append(masked) or network(tokens, masked, condition)
    model.sample_codes(4000, steps=2, choice_temperature=1e6, generator=torch.Generator().manual_seed(0))
    assert seen[0].all()
    assert (seen[1].sum(1) == 2).all()
    torch.testing.assert_close(seen[1].float().mean(0), torch.full((4,), 0.5), rtol=0, atol=0.04)


@pytest.mark.parametrize("steps", [1, 3, 8, 100])
def test_inpainting_keeps_known_codes(steps):
    model = toy()
    known, mask = EVERY[torch.randperm(81)[:50]].view(50, 2, 2), torch.rand(50, 2, 2) < 0.5
    drawn = model.sample_codes(50, steps=steps, known=known, mask=mask)
    assert torch.equal(drawn[~mask], known[~mask])
    assert (drawn[mask] != known[mask]).any()
    padded = known.masked_fill(mask, -1)  # what is drawn need not be known
    again = [
        model.sample_codes(50, known=k, mask=mask, generator=torch.Generator().manual_seed(0)) for k in (known, padded)
    ]
    assert torch.equal(*again)
    one = model.sample_codes(3, known=known[0], mask=mask[0])
    assert torch.equal(one[:, ~mask[0]], known[0][~mask[0]].expand(3, -1))
    images = model.sample(50, known=known, mask=torch.zeros_like(mask))
    assert torch.equal(images, as_images(known, 3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"choice_temperature": -1.0}, "choice_temperature must be at least 0, got -1.0"),
        ({"known": torch.zeros(2, 2).long()}, "known and mask belong together"),
        (
            {"known": torch.zeros(3, 2).long(), "mask": torch.ones(2, 2).bool()},
            "known must be (2, 2) or (5, 2, 2), got (3, 2)",
        ),
        ({"known": torch.zeros(2, 2).long(), "mask": torch.ones(2, 2)}, "mask must be bool"),
        ({"known": torch.full((2, 2), 3), "mask": torch.zeros(2, 2).bool()}, "code 3"),
    ],
)
def test_messages(options, words):
    with refused(words):
        toy().sample_codes(5, **options)


def test_labels_determine_codes():
    torch.manual_seed(0)
    of_class = torch.randint(8, (4, 2, 2))
    labels = torch.arange(256) % 4
    data = loader(of_class[labels], 8, labels)
    model = build(MaskedPrior, Pixels(8, 2), **SMALL, conditional=True, num_classes=4, lr=1e-2, label_dropout=0.3)
    trainer(max_steps=160).fit(model, data)
    model.eval()
    assert model.nll(as_images(of_class, 8), torch.arange(4)).max() < 0.2
    each = torch.tensor([2, 0, 3])
    assert torch.equal(model.sample_codes(3, each, top_k=1), of_class[each])
    assert model.counts.sum() == 160 * 32 * 4


@pytest.mark.slow
def test_bits_per_token_of_markov_source_approach_entropy():
    torch.manual_seed(0)
    chain, entropy = markov()
    model = build(
        MaskedPrior, Pixels(16, 4), **{**SMALL, "dim": 128, "depth": 3, "heads": 4}, lr=2e-3, optimization=COSINE
    )
    trainer(max_steps=2000, gradient_clip_val=1.0).fit(model, loader(walks(chain, 64_000), 16, batch_size=128))
    codes = walks(chain, 2000)
    found = validate(model, loader(codes, 16, batch_size=250))
    assert found["val/bits_per_token"] == pytest.approx(entropy, rel=0.03)
    with torch.no_grad():
        nll = model.eval().nll(as_images(codes, 16), order=torch.arange(16)).mean().item()
    assert nll / 16 / math.log(2) == pytest.approx(entropy, rel=0.03)


COSINE = vqlab.Optimization(schedule=vqlab.Schedule("cosine", warmup_steps=50))


def test_codes_of_several_books_are_drawn_and_checkpoints_give_the_same(tmp_path):
    torch.manual_seed(0)
    tokenizer = VQVAE(quantizer=ResidualQuantizer(VectorQuantizer(16, 64), 2))
    model = build(MaskedPrior, tokenizer, **SMALL, conditional=True, num_classes=10)
    run = trainer(max_steps=2)
    data = [{"image": torch.rand(4, 3, 32, 32), "label": torch.arange(4)}] * 2
    run.fit(model, torch.utils.data.DataLoader(data, batch_size=None))
    run.save_checkpoint(tmp_path / "prior.ckpt")
    again, model = vqlab.load(tmp_path / "prior.ckpt"), model.eval()
    drawn = [m.sample_codes(3, 2, generator=torch.Generator().manual_seed(0)) for m in (model, again)]
    assert drawn[0].shape == (3, 8, 8, 2)
    assert torch.equal(*drawn)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again.nll(x), model.nll(x))
