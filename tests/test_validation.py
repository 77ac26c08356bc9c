"""Constructor arguments of a wrong type: the message names class, argument and rule."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.data import Digits
from vqlab.models import SGAN, VQVAE, AdversarialSettings, CodePrior, PosteriorSampler
from vqlab.nn import ImageFormat, SmallEncoder, ValueRange
from vqlab.quantizers import FSQ, ResidualQuantizer, VectorQuantizer
from vqlab.serialization import from_config, to_config
from vqlab.training import Optimization
from vqlab.validation import check_arguments

WRONG = [
    (lambda: VQVAE(quantizer="FSQ"), "VQVAE: quantizer must be a Quantizer"),
    (lambda: VQVAE(lr="3e-4"), "VQVAE: lr must be a number above 0 or None, got '3e-4'"),
    (lambda: VQVAE(encoder=SmallEncoder), "got the class SmallEncoder: pass an object, encoder=SmallEncoder(...)"),
    (lambda: AdversarialSettings(discriminator="PatchGAN"), "got 'PatchGAN': pass an object, not its name"),
    (lambda: PosteriorSampler(num_mis_steps="4"), "PosteriorSampler: num_mis_steps must be an integer of at least 1"),
    (lambda: Optimization(betas=[0.9]), "Optimization: betas must be 2 numbers in [0, 1)"),
    (lambda: ResidualQuantizer([VectorQuantizer(16, 8)]), "ResidualQuantizer: quantizer"),
    (lambda: VectorQuantizer(64.0, 8), "VectorQuantizer: num_embeddings must be an integer"),
    (lambda: FSQ(8), "FSQ: levels must be a list of integers at least 2, got 8"),
    (lambda: SGAN(conditional="yes"), "SGAN: conditional must be True or False"),
    (lambda: Optimization(schedule="cosine"), "Optimization: schedule must be a Schedule"),
    (CodePrior, "tokenizer must be a trained model"),
    (lambda: CodePrior(3), "CodePrior: tokenizer must be"),
]


@pytest.mark.parametrize(("build", "words"), WRONG)
def test_wrong_type_is_refused(build, words):
    with refused(words):
        build()


def test_numbers_lists_and_duck_types_are_accepted():
    FSQ([np.int64(8), 5])
    FSQ((8, 5))
    VQVAE(
        SmallEncoder(hidden_channels=16),
        lr=1,
        optimization=Optimization(betas=[0.9, np.float32(0.99)]),
        images=ImageFormat(value_range=ValueRange("unit")),
    )
    check_arguments(CodePrior, {"tokenizer": Path("x.ckpt")})
    stand_in = torch.nn.Identity()
    check_arguments(VQVAE, {"encoder": stand_in, "frechet": stand_in})
    again = from_config(to_config(ResidualQuantizer(FSQ([5, 4]), 2)))
    assert again.num_codebooks == 2


def test_repr_of_data_module_has_arguments():
    assert repr(Digits(image_size=16)).startswith("Digits(")
    assert "image_size=16" in repr(Digits(image_size=16))
