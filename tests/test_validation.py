"""Constructor arguments of a wrong type: one line that names class, argument and rule."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.data.images.digits import Digits
from vqlab.models.adversarial import AdversarialSettings
from vqlab.models.categorical.jsa import JSA, PosteriorSampler
from vqlab.models.prior.code_prior import CodePrior
from vqlab.models.sgan import SGAN
from vqlab.models.vq.s4dvq import S4DVQ
from vqlab.models.vq.vqgan import VQGAN
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.image_format import ImageFormat
from vqlab.nn.value_range import ValueRange
from vqlab.quantizers.composite import ResidualQuantizer
from vqlab.quantizers.fsq import FSQ
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.serialization import from_config, to_config
from vqlab.training.optimization import Optimization
from vqlab.validation import check_arguments

WRONG = {
    "a name for a quantizer": (lambda: VQVAE(quantizer="FSQ"), ("VQVAE: quantizer must be a Quantizer", "'FSQ'")),
    "text for a number": (lambda: VQVAE(lr="3e-4"), ("VQVAE: lr must be a number above 0 or None, got '3e-4'",)),
    "a class for an object": (lambda: VQVAE(encoder=SmallEncoder), ("encoder=SmallEncoder(...)",)),
    "a name for a discriminator": (
        lambda: VQGAN(adversarial=AdversarialSettings(discriminator="PatchGAN")),
        ("AdversarialSettings: discriminator", "not its name"),
    ),
    "a common argument": (lambda: JSA(lr="1e-3"), ("JSA: lr must be a number above 0 or None",)),
    "an own argument": (
        lambda: JSA(sampler=PosteriorSampler(num_mis_steps="4")),
        ("PosteriorSampler: num_mis_steps must be an integer of at least 1",),
    ),
    "one of two numbers": (
        lambda: VQVAE(optimization=Optimization(betas=[0.9])),
        ("Optimization: betas must be 2 numbers in [0, 1)",),
    ),
    "a list for a quantizer": (lambda: ResidualQuantizer([VectorQuantizer(16, 8)]), ("ResidualQuantizer: quantizer",)),
    "a float for a count": (lambda: VectorQuantizer(64.0, 8), ("VectorQuantizer: num_embeddings must be an integer",)),
    "a number for a list": (lambda: FSQ(8), ("FSQ: levels must be a list of integers at least 2, got 8",)),
    "another choice": (lambda: S4DVQ(quantizer="VQ"), ("S4DVQ: quantizer must be a Quantizer, 'vector' or None",)),
    "text for a switch": (lambda: SGAN(conditional="yes"), ("SGAN: conditional must be True or False",)),
    "a name for a schedule": (
        lambda: VQVAE(optimization=Optimization(schedule="cosine")),
        ("Optimization: schedule must be a Schedule",),
    ),
    "no tokenizer": (CodePrior, ("tokenizer must be a trained model",)),
    "a number for a tokenizer": (lambda: CodePrior(3), ("CodePrior: tokenizer must be",)),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_type_is_refused_by_name(mistake):
    build, words = WRONG[mistake]
    with refused(*words):
        build()


def test_what_python_takes_for_a_number_or_a_list_passes():
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


@pytest.mark.parametrize(("channels", "given"), [(3, 1), (1, 3)])
def test_images_of_other_channels_name_the_argument_that_helps(channels, given):
    model = VQVAE(SmallEncoder(channels, 16), SmallDecoder(channels, 16), images=ImageFormat(channels=channels))
    with refused(f"(B, {channels}, H, W)", f"channels={given}"):
        model(torch.rand(2, given, 32, 32))
    with refused(f"in_channels of the encoder is {channels}", f"channels of the model {given}"):
        VQVAE(SmallEncoder(channels), images=ImageFormat(channels=given))


def test_a_data_module_shows_its_arguments():
    assert repr(Digits(image_size=16)).startswith("Digits(")
    assert "image_size=16" in repr(Digits(image_size=16))
