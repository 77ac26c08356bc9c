"""The tokenizer of a prior: accepted models and data, and the cache of its codes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.helpers.models import build
from tests.helpers.refusal import refused
from tests.helpers.small_models import parts
from vqlab.models import JSA, VQVAE, CodePrior
from vqlab.models.prior.tokenizer import CodeCache, check_data, find_tokenizer
from vqlab.nn import ImageFormat, ValueRange

TOKENIZER = SimpleNamespace(images=ImageFormat(1, 32, ValueRange("standardized", (0.5,), (0.2,))))


def test_tokenizer_of_prior_is_used():
    first = SimpleNamespace(encode=None, decode=None, quantizer=None, images=TOKENIZER.images)
    assert find_tokenizer(SimpleNamespace(tokenizer=SimpleNamespace(net=first))) is first
    assert find_tokenizer(first) is first


def test_other_objects_are_refused():
    with refused("tokenizer must be a trained model", "checkpoint"):
        find_tokenizer(None)
    with refused("Identity is no tokenizer", "encode, decode, quantizer"):
        find_tokenizer(nn.Identity())
    torch.save({"weights": 1}, "other.ckpt")
    with refused("other.ckpt", "state_dict"):
        find_tokenizer("other.ckpt")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (ImageFormat(3, 32), "channels is 3"),
        (ImageFormat(1, 64), "image_size=32"),
        (ImageFormat(1, 32, "unit"), "value_range=standardized"),
        (ImageFormat(1, 32, ValueRange("standardized", (0.4,), (0.2,))), "use the data that it was trained on"),
    ],
)
def test_other_image_formats_are_refused(images, words):
    with refused(words):
        check_data(TOKENIZER, images)
    for same in (None, ImageFormat(1, 32, TOKENIZER.images.value_range, num_classes=10)):
        check_data(TOKENIZER, same)


@pytest.mark.parametrize(("num_embeddings", "size"), [(2**15, 2), (2**15 + 1, 4)])
def test_cache_returns_computed_codes(num_embeddings, size):
    every = torch.randint(num_embeddings, (100, 6))
    every[0, 0] = num_embeddings - 1
    cache, calls = CodeCache(num_embeddings), []
    for _ in range(3):
        for index in torch.randperm(100).split(10):
            found = cache.get(index, lambda index=index: calls.append(index) or every[index])
            assert torch.equal(found, every[index])
            assert found.dtype == torch.int64
    assert len(calls) == 10, "each image once"
    assert cache.codes.element_size() == size


def test_prior_is_trained_on_codes_of_the_chains_of_a_jsa():
    """The encoder of a JSA whose q is far from the posterior."""
    model = build(JSA, **parts(), num_embeddings=16, kernel="ncg").eval()
    model.latent.step_size.fill_(50.0)
    x = torch.rand(32, 1, 16, 16) * 2 - 1
    seen = {}
    for codes in ("argmax", "posterior"):
        prior = build(CodePrior, model, dim=16, depth=1, heads=2, codes=codes)
        seen[codes] = model.log_joint(x, prior.encode(x)).mean()
    assert seen["posterior"] > seen["argmax"] + 1
    with refused("codes must be argmax for a VQVAE, got posterior"):
        build(CodePrior, build(VQVAE, **parts()), dim=16, depth=1, heads=2, codes="posterior")
