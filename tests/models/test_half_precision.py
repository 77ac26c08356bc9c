"""Every model in half precision: after a cast, and trained with bf16-true."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from tests.helpers.small_models import MODELS, SHAPES, s4dvq
from vqlab.callbacks import SampleGrid
from vqlab.models.categorical.latent import rand
from vqlab.nn import S4D

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
def test_cast_model_returns_half_precision(name, dtype):
    model = MODELS[name]().eval().to(dtype)
    x = torch.rand(SHAPES[model.modality]).to(dtype)
    calls = [call for verb, call in CALLS.items() if hasattr(model, verb)]
    assert calls
    for call in calls:
        y = call(model, x)
        assert y.dtype == dtype
        assert y.isfinite().all()


def test_cast_keeps_running_means_and_tokenizer_in_float32():
    prior = MODELS["CodePrior"]().bfloat16()
    x = torch.rand(2, 1, 16, 16)
    floats = [value.dtype for value in prior.tokenizer.state_dict().values() if value.is_floating_point()]
    assert set(floats) == {torch.float32}
    assert torch.equal(prior.encode(x), prior.tokenizer.net.encode(x))
    assert MODELS["JSA"]().half().latent.likelihood.mse.dtype == torch.float32
    assert MODELS["VQGAN"]().half().adversarial.lecam.real_mean.dtype == torch.float32
    assert {part.log_dt.dtype for part in s4dvq().bfloat16().modules() if isinstance(part, S4D)} == {torch.float32}


def rows(model):
    kind, (num, *shape) = model.modality, SHAPES[model.modality]
    x = torch.rand(8, *shape)
    batch = {"index": torch.arange(8), "label": torch.arange(8) % 2}
    batch |= {"text": {"bow": x.mul(3).ceil()}, "font": {"source": x, "target": -x}}.get(kind, {kind: x})
    if kind == "image":
        batch["strong_image"] = -x  # for FixMatch
    if kind == "font":
        batch |= {"style": torch.zeros(8, dtype=torch.int64), "char": torch.arange(8), "density": torch.rand(8)}
    return DataLoader([{key: value[n] for key, value in batch.items()} for n in range(8)], batch_size=num)


@pytest.mark.parametrize("name", MODELS)
def test_bf16_true_trains_validates_draws_samples_and_predicts(name, tmp_path):
    model = MODELS[name]()
    data = rows(model)
    callbacks = [] if name == "GANTopicModel" else [SampleGrid(num_images=4)]
    settings = {**BARE, "precision": "bf16-true", "max_steps": 2, "default_root_dir": tmp_path}
    trainer = lightning.Trainer(**settings, callbacks=callbacks)
    trainer.fit(model, data, data)
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    (first, _) = trainer.predict(model, data)
    assert all(len(value) == 4 for value in first.values())
    assert callbacks == [] or list(tmp_path.glob("samples/*.png"))


def test_lightning_clips_gradients_under_mixed_precision():
    names = [name for name in MODELS if MODELS[name]().automatic_optimization]
    assert {"VQVAE", "CodePrior"} <= {*names}
    for name in names:
        model = MODELS[name]()
        trainer = lightning.Trainer(**BARE, precision="bf16-mixed", max_steps=1, gradient_clip_val=1.0)
        trainer.fit(model, rows(model))


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
