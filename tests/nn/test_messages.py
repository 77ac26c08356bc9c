"""The messages for invalid arguments and inputs of networks, likelihoods and losses."""

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.losses import Perceptual, TopicContrast
from vqlab.nn import (
    S4D,
    Anneal,
    ConvDecoder,
    ConvEncoder,
    ConvFeatures,
    Gaussian,
    MLPEncoder,
    S4DEncoder,
    SmallDecoder,
    SmallEncoder,
    Transformer,
    UNet,
    ValueRange,
)
from vqlab.nn.base import check_autoencoder
from vqlab.nn.categorical import CategoricalCode, build_prior
from vqlab.nn.gan.discriminators import GlyphDiscriminator, PatchGAN, check_fit

zeros = torch.zeros
CASES = [
    # arguments
    (lambda: Anneal(1, 0, 9, kind="cubic"), "kind must be one of cosine, linear"),
    (
        lambda: Anneal(1, 0, 9, warmup_steps=5, hold_steps=4),
        "5 + hold_steps 4 must be below total_steps 9",
    ),
    (lambda: Anneal(1, 0, 9, kind="exponential"), "above 0 with kind=exponential"),
    (lambda: ValueRange("bytes"), "kind must be one of unit, "),
    (lambda: ValueRange("standardized", (0.5,), (0.5, 0.5)), "one mean and one positive std"),
    (lambda: Gaussian(0.0), "sigma must be above 0"),
    (lambda: Gaussian("best"), "one of learned, optimal, got 'best'"),
    (lambda: Gaussian(Anneal(0.2, 0.0, 10)), "sigma must be above 0, got an Anneal from 0.2 to 0.0"),
    (lambda: CategoricalCode(4, 1, 4), "num_embeddings must be at least 2"),
    (lambda: ConvEncoder(base_channels=0), "base_channels must be at least 1, got 0"),
    (lambda: ConvDecoder(channel_multipliers=(1, 0)), "channel_multipliers must be a list of integers at least 1"),
    (lambda: ConvDecoder(attention_levels=(0, 7)), "attention_levels must lie between 0 (full resolution) and 2"),
    (lambda: ConvDecoder(out_activation="relu"), "out_activation must be one of tanh, sigmoid or None, got 'relu'"),
    (lambda: SmallEncoder(downsampling=6), "downsampling must be a power of 2 and at least 2, got 6"),
    (lambda: S4DEncoder(mixer="gru"), "mixer must be one of s4d, conv"),
    (lambda: S4DEncoder(d_state=3), "d_state must be even, got 3"),
    (lambda: Transformer(8, 4, dim=16, heads=3), "dim must be an even multiple of heads 3"),
    (lambda: UNet(48), "image_size must be a power of two for a UNet, got 48"),
    (lambda: ConvFeatures(dropout=1.0), "dropout must be in [0, 1), got 1.0"),
    (lambda: PatchGAN(norm="layer"), "norm must be one of group, "),
    (
        lambda: Perceptual("resnet"),
        "net must be one of vgg, alex, squeeze, squeezenet1_0, efficientnet_lite0, got 'resnet'",
    ),
    # inputs
    (lambda: ConvEncoder(8)(zeros(1, 8, 30, 32)), "images of 30x32 are not divisible"),
    (lambda: SmallEncoder()(zeros(1, 3, 3, 3)), "downsampling 4: set image_size=4"),
    (lambda: S4DEncoder()(zeros(1, 1, 1000)), "downsampling 16: set length=992"),
    (lambda: MLPEncoder()(zeros(1, 1, 14, 56)), "14x56, but the encoder is made for 28x28"),
    (lambda: ConvFeatures()(zeros(2, 1, 28, 28)), "(B, 1, 32, 32), got (2, 1, 28, 28)"),
    (lambda: PatchGAN()(zeros(1, 1, 32, 32)), "images must be (B, 3, H, W), got (1, 1, 32, 32): set in_channels"),
    (lambda: S4D(4)(zeros(2, 100, 4)), "(B, L, H)"),
    (lambda: S4D(4).step(zeros(2, 4), zeros(2, 4, 3)), "see initial_state"),
    (lambda: S4D(4, bidirectional=True).step(zeros(2, 4), zeros(2, 4, 64)), "bidirectional=False"),
    (lambda: check_autoencoder(SmallEncoder(), SmallDecoder(), 3, 30), "image_size 30 is not divisible"),
    (
        lambda: check_autoencoder(SmallEncoder(), SmallDecoder(downsampling=8), 3, 32),
        "the encoder shrinks by 4, the decoder grows by 8: make both the same",
    ),
    (lambda: check_autoencoder(SmallEncoder(1), SmallDecoder(), 3, 32), "in_channels of the encoder is 1"),
    (lambda: check_autoencoder(S4DEncoder(), SmallDecoder(), 1, 32), "signals: set encoder=ConvEncoder"),
    (lambda: build_prior(Transformer(8, 4, dim=16, heads=2), 9, 8, 1), "length 4, the codes 9: set length=9"),
    (lambda: build_prior("flat", 9, 8, 1), "prior must be uniform, factorized or a Transformer"),
    (lambda: check_fit(UNet(32), None, 1, 64), "glyphs have size 64, the generator 32"),
    (lambda: check_fit(UNet(32, 2), GlyphDiscriminator(3), 2, 32), "2 styles, and the discriminator is made for 3"),
    (lambda: check_fit(UNet(16), GlyphDiscriminator(), 1, 16), "16x16 are too small for a PatchGAN"),
    (
        lambda: TopicContrast(3, 20, num_classes=2, embedding_dim=8).by_label(zeros(2, 3), torch.tensor([0, 2]), 0.5),
        "set contrast=averaged",
    ),
    (
        lambda: Perceptual("squeezenet1_0").check_size(20, 32),
        "20x32 are too small for LPIPS with squeezenet1_0: set image_size=21 or perceptual_weight=0",
    ),
    (lambda: Perceptual()(*zeros(2, 2, 2, 32, 32)), "(2, 2, 32, 32): set perceptual_weight=0"),
    (lambda: Perceptual()(zeros(1, 3, 32, 32), zeros(2, 3, 32, 32)), "of one shape"),
]


@pytest.mark.parametrize(("call", "message"), CASES, ids=[message[:30] for _, message in CASES])
def test_message_names_the_rule(call, message):
    with refused(message):
        call()
