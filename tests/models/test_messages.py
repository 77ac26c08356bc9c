"""Error messages of models: one line that names the setting and a hint."""

import lightning
import pytest
import torch

from tests.helpers.bare import BARE
from tests.helpers.grid import Data, fit, grid
from tests.helpers.models import build
from tests.helpers.planted import Planted
from tests.helpers.refusal import refused
from tests.helpers.toy import parts
from vqlab.losses import Perceptual
from vqlab.metrics import FrechetDistance
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
)
from vqlab.nn import (
    ConvFeatures,
    ConvGenerator,
    GlyphDiscriminator,
    ImageFormat,
    PatchGAN,
    S4DEncoder,
    SmallDecoder,
    SmallEncoder,
    Transformer,
    UNet,
)

ARGUMENTS = [
    (VQVAE, {"channels": 1, "encoder": SmallEncoder(3)}, "in_channels of the encoder is 3, channels of the model 1"),
    (VQVAE, {"channels": 1, "decoder": SmallDecoder(3)}, "out_channels of the decoder is 3, channels of the model 1"),
    (VQVAE, {"encoder": SmallEncoder(downsampling=8)}, "shrinks by 8, the decoder grows by 4"),
    (VQVAE, {"image_size": 30}, "image_size=32"),
    (VQVAE, {"lr": 1e-3, "base_lr": 1e-6}, "lr=0.001 and base_lr=1e-06 are both given"),
    (VQVAE, {"frechet": FrechetDistance("squeezenet1_0"), "image_size": 16}, "frechet=null"),
    (VQGAN, {"disc_start": 3, "disc_warmup": 4}, "disc_warmup must be at most disc_start=3, got 4"),
    (VQGAN, {"accumulate": 2}, "accumulate above 1 is not compatible with alternating updates: set alternate=false"),
    (S4DVQ, {"encoder": SmallEncoder()}, "made for images: set encoder=S4DEncoder"),
    (S4DVQ, {"length": 500}, "length=496"),
    (S4DVQ, {"encoder": S4DEncoder(pool=(4,))}, "same pool"),
    (JSA, parts(disc_weight=0.5), "disc_weight must be 0 without a Gaussian likelihood"),
    (JSA, {"prior": Transformer(1024, 9, dim=8, depth=1, heads=2)}, "length=64"),
    (JSA, {"split_ratio": 2.0}, "split_ratio must be above 2"),
    (JSA, {"perceptual_weight": 1.0, "perceptual": Perceptual("alex"), "image_size": 16}, "too small for LPIPS"),
    (DiscreteVAE, {"estimator": "rloo", "num_samples": 1}, "num_samples must be at least 2"),
    (DiscreteVAE, parts(prior=Transformer(4, 3, num_codebooks=3, dim=8, depth=1, heads=2)), "set prior=factorized"),
    (CodePrior, {"tokenizer": "nope.ckpt"}, "nope.ckpt does not exist"),
    (MaskedPrior, {"dim": 30}, "dim must be an even multiple of heads 8"),
    (CodePrior, {"conditional": True}, "conditional must be false for data without labels"),
    (SGAN, {"num_classes": 0}, "num_classes must be at least 2"),
    (SGAN, {"spectral_norm": True, "weight_norm": True}, "spectral_norm and weight_norm must not both be true"),
    (FixMatch, {"images": ImageFormat()}, "num_classes must be at least 2"),
    (SGAN, {"generator": ConvGenerator(image_size=28)}, "the generator 1 and 28"),
    (SGAN, {"discriminator": ConvFeatures(3)}, "the discriminator 3 and 32"),
    (FontGAN, {"discriminator": GlyphDiscriminator(), "spectral_norm": True}, "discriminator.norm=spectral"),
    (FontGAN, {"generator": UNet(32)}, "size 64, the generator 32"),
    (GANTopicModel, {"num_topics": 9, "vocab_size": 8}, "num_topics must be at most the number of words, 8, got 9"),
    (GANTopicModel, {"generator": "mlp"}, "init=random"),
    (GANTopicModel, {"bidirectional": False}, "cycle_weight=0"),
    (GANTopicModel, {"contrast": "label"}, "contrast=averaged"),
]


@pytest.mark.parametrize(("cls", "arguments", "words"), ARGUMENTS, ids=lambda value: str(value)[:40])
def test_invalid_arguments_are_refused(cls, arguments, words):
    if cls in (CodePrior, MaskedPrior):
        arguments = {"tokenizer": VQVAE(), **arguments}
    with refused(words):
        build(cls, **arguments)


def prior(**options):
    model = build(CodePrior, VQVAE(), dim=16, depth=1, heads=2, **options)
    return model.train()


def topics(**options):
    return GANTopicModel(4, vocab_size=60, hidden_features=8, init="random", **options)


ten = {"conditional": True, "num_classes": 10}
INPUTS = [
    (lambda: VQVAE().encode(torch.zeros(2, 1, 32, 32)), "W), got (2, 1, 32, 32): build the model with channels=1"),
    (lambda: VQVAE().encode(torch.zeros(2, 3, 30, 32)), "30"),
    (lambda: S4DVQ().encode(torch.zeros(2, 3, 64)), "(B, 1, L)"),
    (lambda: SGAN().sample(2, label=1), "--model.conditional=true"),
    (lambda: SGAN(conditional=True).sample(2, label=10), "labels must lie in 0 .. 9"),
    (lambda: prior().sample(2, label=1), "needs a conditional prior: leave --label out"),
    (lambda: prior(**ten).sample(2, guidance=2.0), "needs a label"),
    (lambda: prior(**ten).sample(2, label=-1), "label must be one number or 2 numbers in 0 .. 9, got -1"),
    (
        lambda: prior(**ten).sample(2, label=torch.arange(3)),
        "label must be one number or 2 numbers in 0 .. 9, got [0, 1, 2]",
    ),
    (lambda: FontGAN(image_size=32, num_styles=2).translate(torch.ones(1, 1, 32, 32), 2), "styles must lie in 0 .. 1"),
    (lambda: FontGAN(image_size=32).translate(torch.ones(1, 1, 8, 8), 0), "(B, 1, 32, 32)"),
    (lambda: topics().transform(torch.ones(2, 59)), "use the vocabulary of the training"),
    (lambda: topics().transform(torch.zeros(2, 60)), "no word of the vocabulary"),
    (lambda: topics(bidirectional=False, cycle_weight=0.0).transform(torch.ones(2, 60)), "needs an encoder"),
]


@pytest.mark.parametrize(("call", "words"), INPUTS, ids=lambda value: value if isinstance(value, str) else "")
def test_invalid_inputs_are_refused(call, words):
    with refused(words):
        call()


class WithoutIndex(Data):
    def train_dataloader(self):
        return torch.utils.data.DataLoader([{"image": torch.rand(1, 16, 16)} for _ in range(64)], batch_size=16)


def test_invalid_data_are_refused():
    augmented = Data()
    augmented.augment = True
    with refused("augment must be false with cache=true"):
        fit(grid(), augmented)
    with refused("train_size"):
        fit(grid(lr=1e-3), Data().train_dataloader())
    with refused("index", "cache=false"):
        fit(grid(), WithoutIndex())
    fit(grid(cache=False), WithoutIndex())
    with refused("DataModule of texts", "init=random"):
        run = lightning.Trainer(**BARE, max_steps=1, limit_val_batches=0)
        run.fit(GANTopicModel(4, vocab_size=400), Planted(batch_size=32).train_dataloader())


def test_16_mixed_is_refused(monkeypatch):
    model = grid()
    run = lightning.Trainer(**BARE)
    monkeypatch.setattr(type(run), "precision", "16-mixed")
    model._trainer = run
    with refused("--trainer.precision=bf16-mixed"):
        model.setup("fit")


def test_unreachable_disc_start_gives_warning():
    with pytest.warns(UserWarning, match="disc_start 10 lies beyond max_steps 3"):
        fit(grid(discriminator=PatchGAN(1, 8, 1), disc_weight=0.5, disc_start=10), max_steps=3)
