"""Every model in half precision: cast by hand, and trained with Lightning's bf16-true."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from tests.helpers.models import build
from vqlab.callbacks.sample_grid import SampleGrid
from vqlab.models import JSA, S4DVQ, SGAN, VQGAN, VQVAE, CodePrior, DiscreteVAE, FontGAN, GANTopicModel
from vqlab.models.categorical.latent import rand
from vqlab.nn.autoencoders.s4d import S4DDecoder, S4DEncoder
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.gan.discriminators import GlyphDiscriminator, PatchGAN
from vqlab.nn.gan.networks import ConvFeatures, ConvGenerator
from vqlab.nn.likelihood import Bernoulli
from vqlab.nn.ssm.s4d import S4D
from vqlab.nn.unet import UNet
from vqlab.quantizers.vector import VectorQuantizer

IMAGE = {"channels": 1, "image_size": 16}


def parts():
    return {"encoder": SmallEncoder(1, 16, 8, 1), "decoder": SmallDecoder(1, 16, 8, 1), **IMAGE}


def vqvae():
    return build(VQVAE, **parts(), quantizer=VectorQuantizer(16, 8))


def s4dvq():
    nets = S4DEncoder(d_model=8, d_state=8), S4DDecoder(in_channels=8, d_model=8, d_state=8)
    return build(S4DVQ, *nets, VectorQuantizer(16, 8), length=128)


def sgan(**options):
    return build(SGAN, ConvGenerator(16, 1, 16, 16), ConvFeatures(1, 16, (8, 16)), **options, **IMAGE)


MODELS = {
    "VQVAE": vqvae,
    "VQGAN": lambda: build(VQGAN, **parts(), discriminator=PatchGAN(1, 8, 1), perceptual_weight=0, lecam_weight=0.1),
    "JSA": lambda: build(JSA, **parts(), num_embeddings=16, cache=False, num_mis_steps=2, nll_samples=2),
    "JSA binary": lambda: build(JSA, **parts(), num_embeddings=16, cache=False, likelihood=Bernoulli()),
    "DiscreteVAE": lambda: build(DiscreteVAE, **parts(), num_embeddings=16, nll_samples=2),
    "CodePrior": lambda: build(CodePrior, vqvae(), dim=16, depth=1, heads=2),
    "S4DVQ": s4dvq,
    "SGAN": sgan,
    "SGAN conditional": lambda: sgan(conditional=True),
    "FontGAN": lambda: build(FontGAN, UNet(32, 1, base_channels=4), GlyphDiscriminator(1, 4, 2), image_size=32),
    "GANTopicModel": lambda: build(GANTopicModel, 3, init="random", hidden_features=8, vocab_size=30),
}
SHAPES = {"image": (4, 1, 16, 16), "signal": (4, 1, 128), "text": (4, 30), "font": (4, 1, 32, 32)}
CALLS = {
    "reconstruct": lambda model, x: model.reconstruct(x),
    "decode": lambda model, x: model.decode(model.encode(x)),
    "sample": lambda model, x: model.sample(2),
    "classify": lambda model, x: model.classify(x),
    "translate": lambda model, x: model.translate(x, 0),
    "transform": lambda model, x: model.transform(x),
    "topics": lambda model, x: model.topics(),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_cast_to_half_precision_returns_it(name, dtype):
    model = MODELS[name]().eval().to(dtype)
    x = torch.rand(SHAPES[model.modality]).to(dtype)
    calls = [call for verb, call in CALLS.items() if hasattr(model, verb)]
    assert calls
    for call in calls:
        y = call(model, x)
        assert y.dtype == dtype
        assert y.isfinite().all()


def test_what_is_cast_keeps_its_running_means_and_its_tokenizer_in_float32():
    prior = MODELS["CodePrior"]().bfloat16()
    x = torch.rand(2, 1, 16, 16)
    assert {value.dtype for value in prior.tokenizer.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }
    assert torch.equal(prior.encode(x), prior.tokenizer.net.encode(x))
    assert MODELS["JSA"]().half().latent.likelihood.mse.dtype == torch.float32
    assert MODELS["VQGAN"]().half().adversarial.lecam.real_mean.dtype == torch.float32
    assert {part.log_dt.dtype for part in s4dvq().bfloat16().modules() if isinstance(part, S4D)} == {torch.float32}


def rows(model):
    kind, (num, *shape) = model.modality, SHAPES[model.modality]
    x = torch.rand(8, *shape)
    batch = {"index": torch.arange(8), "label": torch.arange(8) % 2}
    batch |= {"text": {"bow": x.mul(3).ceil()}, "font": {"source": x, "target": -x}}.get(kind, {kind: x})
    if kind == "font":
        batch |= {"style": torch.zeros(8, dtype=torch.int64), "char": torch.arange(8), "density": torch.rand(8)}
    return DataLoader([{key: value[n] for key, value in batch.items()} for n in range(8)], batch_size=num)


@pytest.mark.parametrize("name", MODELS)
def test_bf16_true_trains_validates_draws_pictures_and_predicts(name, tmp_path):
    model = MODELS[name]()
    data = rows(model)
    callbacks = [] if name == "GANTopicModel" else [SampleGrid(num_images=4)]
    trainer = lightning.Trainer(
        **BARE, precision="bf16-true", max_steps=2, callbacks=callbacks, default_root_dir=tmp_path
    )
    trainer.fit(model, data, data)
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    (first, _) = trainer.predict(model, data)
    assert all(len(value) == 4 for value in first.values())
    assert callbacks == [] or list(tmp_path.glob("samples/*.png"))


def test_uniform_numbers_and_priors_are_float32_in_bf16_true():
    model = MODELS["JSA"]().eval()
    codes = torch.zeros(1, model.latent.positions, dtype=torch.int64)
    expected = model.latent.prior.log_prob(codes)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(model.latent.prior.log_prob(codes), expected)
        assert len(rand(1000, device=torch.device("cpu")).unique()) > 900  # bfloat16 has 256
    finally:
        torch.set_default_dtype(torch.float32)
