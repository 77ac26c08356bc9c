"""One small model of each kind, and the shapes of its inputs."""

from tests.helpers.models import build
from vqlab.models import (
    JSA,
    S4DVQ,
    SGAN,
    VQGAN,
    VQVAE,
    CodePrior,
    DiscreteVAE,
    FixMatch,
    FontGAN,
    GANTopicModel,
    MaskedPrior,
    NextScalePrior,
)
from vqlab.nn import (
    Bernoulli,
    ConvFeatures,
    ConvGenerator,
    GlyphDiscriminator,
    ImageFormat,
    PatchGAN,
    S4DDecoder,
    S4DEncoder,
    SmallDecoder,
    SmallEncoder,
    UNet,
)
from vqlab.quantizers import MultiScaleQuantizer, VectorQuantizer

IMAGE = {"channels": 1, "image_size": 16}
SHAPES = {"image": (4, 1, 16, 16), "signal": (4, 1, 128), "text": (4, 30), "font": (4, 1, 32, 32)}


def parts():
    return {"encoder": SmallEncoder(1, 16, 8, 1), "decoder": SmallDecoder(1, 16, 8, 1), **IMAGE}


def vqvae(quantizer=None):
    return build(VQVAE, **parts(), quantizer=quantizer or VectorQuantizer(16, 8))


def pyramid():
    return vqvae(MultiScaleQuantizer(VectorQuantizer(16, 8), [1, 2, 4]))


def vqgan(**options):
    return build(VQGAN, **parts(), discriminator=PatchGAN(1, 8, 1), perceptual_weight=0, **options)


def jsa(**options):
    sampling = {"cache": False, "num_mis_steps": 2, "nll_samples": 2, "test_nll_samples": 2}
    return build(JSA, **parts(), num_embeddings=16, **sampling, **options)


def s4dvq():
    nets = S4DEncoder(d_model=8, d_state=8), S4DDecoder(in_channels=8, d_model=8, d_state=8)
    return build(S4DVQ, *nets, VectorQuantizer(16, 8), length=128)


def sgan(norm="batch", **options):
    return build(SGAN, ConvGenerator(16, 1, 16, 16), ConvFeatures(1, 16, (8, 16), norm=norm), **options, **IMAGE)


def fonts():
    return build(FontGAN, UNet(32, 1, base_channels=4), GlyphDiscriminator(1, 4, 2), image_size=32)


def topics():
    return build(GANTopicModel, 3, init="random", hidden_features=8, vocab_size=30)


MODELS = {
    "VQVAE": vqvae,
    "VQGAN": lambda: vqgan(lecam_weight=0.1),
    "JSA": jsa,
    "JSA binary": lambda: jsa(likelihood=Bernoulli()),
    "DiscreteVAE": lambda: build(DiscreteVAE, **parts(), num_embeddings=16, nll_samples=2),
    "CodePrior": lambda: build(CodePrior, vqvae(), dim=16, depth=1, heads=2),
    "MaskedPrior": lambda: build(MaskedPrior, vqvae(), dim=16, depth=1, heads=2),
    "NextScalePrior": lambda: build(NextScalePrior, pyramid(), dim=16, depth=1, heads=2),
    "S4DVQ": s4dvq,
    "SGAN": sgan,
    "SGAN conditional": lambda: sgan(conditional=True),
    "SGAN weight norm": lambda: sgan("none", weight_norm=True),
    "FixMatch": lambda: FixMatch(ConvFeatures(1, 16, (8, 16)), images=ImageFormat(1, 16, num_classes=10)),
    "FontGAN": fonts,
    "GANTopicModel": topics,
}
