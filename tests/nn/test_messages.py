"""The message for each mistake in the arguments of networks, likelihoods and losses, or in their inputs."""

import math

import pytest
import torch

from tests.helpers.refusal import refused
from vqlab.losses.adversarial import LeCam, r1_penalty
from vqlab.losses.contrastive import TopicContrast
from vqlab.losses.perceptual import Perceptual
from vqlab.nn.anneal import Anneal
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.nn.autoencoders.mlp import MLPDecoder, MLPEncoder
from vqlab.nn.autoencoders.s4d import S4DDecoder, S4DEncoder
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.base import check_autoencoder
from vqlab.nn.categorical import CategoricalCode, build_prior
from vqlab.nn.gan.conv import ConvFeatures, ConvGenerator
from vqlab.nn.gan.glyph_discriminator import GlyphDiscriminator, check_fit
from vqlab.nn.gan.mlp import MLPFeatures, MLPGenerator
from vqlab.nn.gan.patchgan import PatchGAN
from vqlab.nn.likelihood import Gaussian
from vqlab.nn.ssm.s4d import S4D
from vqlab.nn.transformer import Transformer
from vqlab.nn.unet import UNet
from vqlab.nn.value_range import ValueRange

ARGUMENTS = [
    (Anneal, {"start": 1, "end": 0, "total_steps": 9, "kind": "cubic"}, "kind must be one of cosine, linear"),
    (Anneal, {"start": 1, "end": 0, "total_steps": 0}, "total_steps must be at least 1, got 0"),
    (Anneal, {"start": 1, "end": 0, "total_steps": 9, "hold_steps": -1}, "hold_steps must be at least 0, got -1"),
    (Anneal, {"start": 1, "end": 0, "total_steps": 9, "warmup_steps": 5, "hold_steps": 4}, "sum of warmup_steps 5 and"),
    (Anneal, {"start": math.nan, "end": 0, "total_steps": 9}, "start and end must be finite, got nan and 0"),
    (Anneal, {"start": 1, "end": math.inf, "total_steps": 9}, "start and end must be finite, got 1 and inf"),
    (
        Anneal,
        {"start": 1, "end": 0, "total_steps": 9, "kind": "exponential"},
        "finite and above 0 with kind=exponential",
    ),
    (ValueRange, {"kind": "bytes"}, "kind must be one of unit, "),
    (ValueRange, {"kind": "standardized"}, "value_range=standardized needs one mean and one positive std"),
    (ValueRange, {"kind": "standardized", "mean": (0.5,), "std": (0.5, 0.5)}, "one mean and one positive std"),
    (ValueRange, {"kind": "standardized", "mean": (0.5, 0.5), "std": (0.5, 0.0)}, "one mean and one positive std"),
    (Gaussian, {"sigma": 0.0}, "sigma must be above 0"),
    (Gaussian, {"sigma": math.inf}, "sigma must be above 0"),
    (Gaussian, {"sigma": "best"}, "one of learned, optimal, got 'best'"),
    (Gaussian, {"sigma": Anneal(0.2, 0.0, total_steps=10)}, "sigma must be above 0, got an Anneal from 0.2 to 0.0"),
    (Gaussian, {"initial": 0.0}, "initial must be above 0, got 0.0"),
    (CategoricalCode, {"in_channels": 4, "num_embeddings": 1, "embedding_dim": 4}, "num_embeddings must be at least 2"),
    (ConvEncoder, {"base_channels": 0}, "base_channels must be at least 1, got 0"),
    (ConvDecoder, {"channel_multipliers": (1, 0)}, "channel_multipliers must be a list of integers at least 1"),
    (ConvEncoder, {"channel_multipliers": ()}, "channel_multipliers must name at least one resolution"),
    (ConvDecoder, {"attention_levels": (0, 7)}, "attention_levels must lie between 0 (full resolution) and 2"),
    (ConvEncoder, {"attention_levels": (-1,)}, "attention_levels must be a list of integers at least 0"),
    (ConvDecoder, {"out_activation": "relu"}, "out_activation must be one of tanh, sigmoid or None, got 'relu'"),
    (SmallEncoder, {"hidden_channels": 1}, "hidden_channels must be at least 2"),
    (SmallDecoder, {"num_res_blocks": -1}, "num_res_blocks must be at least 0"),
    (SmallEncoder, {"downsampling": 6}, "downsampling must be a power of 2 and at least 2, got 6"),
    (SmallDecoder, {"downsampling": 1}, "downsampling must be a power of 2 and at least 2, got 1"),
    (MLPEncoder, {"image_size": -28}, "image_size must be at least 1, got -28"),
    (MLPDecoder, {"hidden_channels": (3, 0, 5)}, "hidden_channels must be a list of integers at least 1"),
    (S4DEncoder, {"pool": (4, 0)}, "pool must be a list of integers at least 1"),
    (S4DEncoder, {"mixer": "gru"}, "mixer must be one of s4d, conv"),
    (S4DDecoder, {"norm": "group"}, "norm must be one of none, "),
    (S4DDecoder, {"mlp": "gelu"}, "mlp must be one of relu, linear"),
    (S4DEncoder, {"d_state": 3}, "d_state must be even, got 3"),
    (S4D, {"d_model": 4, "init": "hippo"}, "init must be one of lin, "),
    (S4D, {"d_model": 4, "discretization": "euler"}, "discretization must be one of zoh, bilinear"),
    (S4D, {"d_model": 4, "dt_min": 0.2}, "dt_min must be at most dt_max 0.1, got 0.2"),
    (S4D, {"d_model": 4, "convolution": "direct"}, "convolution must be one of auto, "),
    (Transformer, {"num_tokens": 8, "length": 4, "depth": 0}, "depth must be at least 1"),
    (Transformer, {"num_tokens": 8, "length": 4, "dim": 16, "heads": 3}, "dim must be an even multiple of heads 3"),
    (Transformer, {"num_tokens": 8, "length": 4, "dim": 16, "heads": 16}, "set dim=1024"),
    (Transformer, {"num_tokens": 8, "length": 4, "dropout": 1.0}, "dropout must be in [0, 1)"),
    (Transformer, {"num_tokens": 8, "length": 4, "mlp_ratio": 0.0}, "mlp_ratio must be above 0"),
    (UNet, {"image_size": 48}, "image_size must be a power of two for a UNet, got 48"),
    (UNet, {"base_channels": 1}, "base_channels must be at least 2"),
    (UNet, {"norm": "group"}, "norm must be one of instance, "),
    (ConvGenerator, {"latent_dim": 0}, "latent_dim must be at least 1"),
    (ConvFeatures, {"channels": ()}, "channels must name at least one layer"),
    (ConvFeatures, {"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
    (MLPGenerator, {"hidden_features": (0,)}, "hidden_features must be a list of integers at least 1"),
    (MLPFeatures, {"hidden_features": ()}, "hidden_features must name at least one layer"),
    (MLPFeatures, {"noise": -1.0}, "noise must be at least 0, got -1.0"),
    (PatchGAN, {"num_layers": 0}, "num_layers must be at least 1"),
    (PatchGAN, {"norm": "layer"}, "norm must be one of group, "),
    (GlyphDiscriminator, {"num_styles": 0}, "num_styles must be at least 1"),
    (LeCam, {"decay": 1.0}, "decay must be in [0, 1), got 1.0"),
    (Perceptual, {"net": "resnet"}, "net must be one of vgg, alex, squeeze, squeezenet1_0, got 'resnet'"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), ARGUMENTS, ids=lambda value: getattr(value, "__name__", ""))
def test_arguments_out_of_range_are_named_with_their_rule(cls, arguments, message):
    with refused(message):
        cls(**arguments)


def s4d_step(layer, state):
    return lambda: layer.step(torch.zeros(2, 4), state)


def contrast(labels):
    return TopicContrast(3, 20, num_classes=2, embedding_dim=8).by_label(torch.rand(2, 3), torch.tensor(labels), 0.5)


INPUTS = {
    "conv encoder": (lambda: ConvEncoder(8)(torch.zeros(1, 8, 30, 32)), "images of 30x32 are not divisible"),
    "small encoder": (lambda: SmallEncoder()(torch.zeros(1, 3, 3, 3)), "downsampling 4: set image_size=4"),
    "signal": (lambda: S4DEncoder()(torch.zeros(1, 1, 1000)), "downsampling 16: set length=992"),
    # The next two have as many numbers as a linear layer takes.
    "mlp encoder": (lambda: MLPEncoder()(torch.zeros(1, 1, 14, 56)), "14x56, but the encoder is made for 28x28"),
    "mlp decoder": (
        lambda: MLPDecoder(image_size=8)(torch.zeros(1, 64, 2, 2)),
        "a map of 2x2, but the decoder is made",
    ),
    "features": (lambda: ConvFeatures()(torch.zeros(2, 1, 28, 28)), "(B, 1, 32, 32), got (2, 1, 28, 28)"),
    "mlp features": (lambda: MLPFeatures()(torch.zeros(2, 3, 28, 28)), "got (2, 3, 28, 28): set image_size=28"),
    "patches": (
        lambda: PatchGAN()(torch.zeros(1, 1, 32, 32)),
        "PatchGAN takes images (B, 3, H, W), got (1, 1, 32, 32)",
    ),
    "no batch": (lambda: PatchGAN()(torch.zeros(3, 32, 32)), "got (3, 32, 32)"),
    "axes of a signal": (lambda: S4D(4)(torch.zeros(2, 100, 4)), "(B, L, H)"),
    "integer signal": (lambda: S4D(4)(torch.ones(2, 4, 8, dtype=torch.int64)), "real signals"),
    "state": (s4d_step(S4D(4), torch.zeros(2, 4, 3)), "see initial_state"),
    "bidirectional": (s4d_step(S4D(4, bidirectional=True), torch.zeros(2, 4, 64)), "bidirectional=False"),
    "image size": (lambda: check_autoencoder(SmallEncoder(), SmallDecoder(), 3, 30), "image_size 30 is not divisible"),
    "factors": (
        lambda: check_autoencoder(SmallEncoder(), SmallDecoder(downsampling=8), 3, 32),
        "the encoder shrinks by 4, the decoder grows by 8: make both the same",
    ),
    "channels": (lambda: check_autoencoder(SmallEncoder(1), SmallDecoder(), 3, 32), "in_channels of the encoder is 1"),
    "modality": (lambda: check_autoencoder(S4DEncoder(), SmallDecoder(), 1, 32), "signals: set encoder=ConvEncoder"),
    "prior": (lambda: build_prior(Transformer(8, 4, dim=16, heads=2), 9, 8, 1), "length 4, the codes 9: set length=9"),
    "unknown prior": (lambda: build_prior("flat", 9, 8, 1), "prior must be uniform, factorized or a Transformer"),
    "generator's size": (lambda: check_fit(UNet(32), None, 1, 64), "glyphs have size 64, the generator 32"),
    "generator's styles": (lambda: check_fit(UNet(32), None, 2, 32), "2 styles, and the generator is made for 1"),
    "styles": (
        lambda: check_fit(UNet(32, 2), GlyphDiscriminator(3), 2, 32),
        "2 styles, and the discriminator is made for 3",
    ),
    "small glyphs": (lambda: check_fit(UNet(16), GlyphDiscriminator(), 1, 16), "16x16 are too small for a PatchGAN"),
    "images without gradient": (lambda: r1_penalty(torch.zeros(2, 3), torch.zeros(2)), "real.requires_grad_()"),
    "unlabelled": (lambda: contrast([0, -1]), "needs labels in 0 .. 1, got -1 to 0"),
    "other labels": (lambda: contrast([0, 2]), "set contrast=averaged"),
    "small images": (
        lambda: Perceptual("squeezenet1_0").check_size(20, 32),
        "20x32 are too small for LPIPS by squeezenet1_0, which needs 21: set image_size=21 or perceptual_weight=0",
    ),
    "two channels": (lambda: Perceptual()(*torch.zeros(2, 2, 2, 32, 32)), "(2, 2, 32, 32): set perceptual_weight=0"),
    "one image": (lambda: Perceptual()(*torch.zeros(2, 3, 32, 32)), "LPIPS compares images (B, 3, H, W)"),
    "shapes": (lambda: Perceptual()(torch.zeros(1, 3, 32, 32), torch.zeros(2, 3, 32, 32)), "of one shape"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_do_not_fit_are_named_with_a_hint(case):
    call, message = INPUTS[case]
    with refused(message):
        call()
