"""NextScalePrior: likelihoods and draws against enumeration, the cache, learning of known sources, checkpoints."""

import itertools

import pytest
import torch
from torch import nn

import vqlab
from tests.helpers.bare import trainer, validate
from tests.helpers.models import build
from tests.helpers.refusal import refused
from tests.helpers.toy_codes import Pyramid, as_images, loader, markov, trees
from vqlab.models import VQVAE, NextScalePrior
from vqlab.quantizers import MultiScaleQuantizer, ProductQuantizer, VectorQuantizer
from vqlab.samplers.tokens import draw, guide, restrict

SMALL = {"dim": 32, "depth": 1, "heads": 2, "dropout": 0.0}
EVERY = torch.tensor(list(itertools.product(range(3), repeat=5)))  # all 243 codes of the toy


def toy(scales=(1, 2), codes=3, **options):
    """Return a prior over a pyramid, with large weights."""
    torch.manual_seed(1)
    options = {**SMALL, "conditional": True, "num_classes": 2, **options}
    model = build(NextScalePrior, Pyramid(codes, scales), **options).eval()
    for weight in model.network.parameters():
        nn.init.normal_(weight, std=0.4)
    return model


def images_of(model, codes):
    tokenizer = model.tokenizer.net
    return as_images(tokenizer.as_map(codes), tokenizer.quantizer.num_embeddings)


def test_probabilities_of_all_codes_sum_to_one():
    model = toy()
    for label in (0, 1, -1):
        nll = model.nll(images_of(model, EVERY), torch.full((243,), label))
        assert (-nll.double()).exp().sum().item() == pytest.approx(1, abs=1e-5)
        assert nll.std() > 0.1


def test_frequencies_of_draws_equal_enumeration():
    model, number = toy(), 30_000
    expected = (-model.nll(images_of(model, EVERY), torch.ones(243).long())).exp().detach() * number
    drawn = model.sample_codes(number, 1, generator=torch.Generator().manual_seed(2))
    counts = torch.bincount((drawn * torch.tensor([81, 27, 9, 3, 1])).sum(1), minlength=243)
    chi_square = ((counts - expected) ** 2 / expected.clamp_min(1)).sum().item()
    assert chi_square < 242 + 5 * (2 * 242) ** 0.5


def test_codes_depend_on_earlier_scales_only():
    model = toy((1, 2, 4))
    codes = torch.randint(3, (2, 21))
    before = model._losses(codes, torch.zeros(2).long())
    for start, end in ((0, 1), (1, 5), (5, 21)):
        changed = codes.clone()
        changed[:, start] = (changed[:, start] + 1) % 3
        same = model._losses(changed, torch.zeros(2).long()).isclose(before)
        assert same[:, :start].all()
        assert same[:, start + 1 : end].all(), "codes of a scale are independent given the scales before it"
        assert not same[:, end:].any()


@pytest.mark.parametrize("options", [{}, {"guidance": 2.5}, {"top_p": 0.8, "temperature": 0.7}])
def test_cached_draws_equal_full_forward_passes(options):
    model = toy((1, 2, 3), depth=3)
    quantizer, label = model.tokenizer.net.quantizer, torch.arange(40) % 2
    cached = model.sample_codes(40, label, **options, generator=torch.Generator().manual_seed(6))
    tokens, generator = torch.empty(40, 0, dtype=torch.int64), torch.Generator().manual_seed(6)
    for scale, guidance in enumerate((1.0, 1 + (options.get("guidance", 1.0) - 1) / 2, options.get("guidance", 1.0))):
        features = [torch.zeros(40, 0, 8)]
        for k, end in enumerate((1, 5)[:scale], 1):  # the maps of the scales so far, from their codes alone
            whole = quantizer.assemble(tokens[:, :end])
            features.append(nn.functional.interpolate(whole, size=(k + 1, k + 1), mode="area").flatten(2).mT)
        with torch.no_grad():
            pair = [model.network(torch.cat(features, 1), c)[:, tokens.shape[1] :, 0] for c in (label, 2 + 0 * label)]
        logits = restrict(guide(*pair, guidance), options.get("temperature", 1.0), top_p=options.get("top_p"))
        tokens = torch.cat([tokens, draw(logits, generator)], 1)
    assert torch.equal(cached, tokens)


def test_labels_determine_codes():
    torch.manual_seed(0)
    of_class, labels = torch.randint(8, (4, 5)), torch.arange(256) % 4
    model = build(NextScalePrior, Pyramid(8, (1, 2)), **SMALL, conditional=True, num_classes=4, lr=1e-2)
    data = loader(model.tokenizer.net.as_map(of_class[labels]), 8, labels)
    trainer(max_steps=80).fit(model, data)
    model.eval()
    assert model.nll(images_of(model, of_class), torch.arange(4)).max() < 0.2
    each = torch.tensor([2, 0, 3])
    assert torch.equal(model.sample_codes(3, each, guidance=2.0), of_class[each])


@pytest.mark.slow
def test_bits_per_token_of_trees_approach_entropy():
    torch.manual_seed(0)
    chain, _ = markov()
    (train, entropy), (val, _) = trees(chain, 16_000), trees(chain, 2000)
    tokenizer = Pyramid(16, (1, 2, 4))
    model = build(NextScalePrior, tokenizer, **{**SMALL, "dim": 64, "depth": 2}, lr=3e-3, optimization=COSINE)
    as_data = [loader(tokenizer.as_map(codes), 16, batch_size=64) for codes in (train, val)]
    trainer(max_steps=1000, gradient_clip_val=1.0).fit(model, as_data[0])
    assert validate(model, as_data[1])["val/bits_per_token"] == pytest.approx(entropy, rel=0.03)


COSINE = vqlab.Optimization(schedule=vqlab.Schedule("cosine", warmup_steps=50))


@pytest.mark.parametrize(
    ("quantizer", "shape"),
    [
        (MultiScaleQuantizer(VectorQuantizer(16, 8), [1, 2, 4, 8]), (85,)),
        (MultiScaleQuantizer(VectorQuantizer(16, 8), [2, 8]), (68,)),
        (MultiScaleQuantizer(ProductQuantizer(VectorQuantizer(16, 4), 2), [1, 3, 8]), (74, 2)),
    ],
    ids=["doubling", "from 2", "products"],
)
def test_code_shapes_and_checkpoints(quantizer, shape, tmp_path):
    torch.manual_seed(0)
    model = build(NextScalePrior, VQVAE(quantizer=quantizer), **SMALL, conditional=True, num_classes=10)
    run = trainer(max_steps=2)
    data = [{"image": torch.rand(4, 3, 32, 32), "label": torch.arange(4)}] * 2
    run.fit(model, torch.utils.data.DataLoader(data, batch_size=None))
    run.save_checkpoint(tmp_path / "prior.ckpt")
    again, model = vqlab.load(tmp_path / "prior.ckpt"), model.eval()
    drawn = [m.sample_codes(3, 2, generator=torch.Generator().manual_seed(0)) for m in (model, again)]
    assert drawn[0].shape == (3, *shape)
    assert torch.equal(*drawn)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again.nll(x), model.nll(x))


def test_other_tokenizers_are_refused():
    with refused("MultiScaleQuantizer, got a VectorQuantizer: train one with configs/vqvae_multi_scale.yaml"):
        NextScalePrior(VQVAE())
