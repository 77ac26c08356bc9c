"""S4D-VQ: codes, parameter groups and learning."""

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.bare import trainer, validate
from tests.helpers.models import build
from tests.helpers.refusal import refused
from tests.helpers.two_ranks import on_two_ranks
from vqlab.data import ECG
from vqlab.losses import MultiResolutionSTFT
from vqlab.models import S4DVQ
from vqlab.nn import S4D, PatchDecoder, PatchEncoder, S4DDecoder, S4DEncoder
from vqlab.quantizers import IdentityQuantizer, ResidualQuantizer, VectorQuantizer


def small(quantizer=None, **options):
    torch.manual_seed(0)
    nets = {"pool": (4,), "d_state": 8}
    encoder, decoder = S4DEncoder(1, 16, **nets), S4DDecoder(16, 1, 16, **nets)
    return build(S4DVQ, encoder, decoder, quantizer or VectorQuantizer(16, 8), length=128, **options)


def data():
    return ECG(num_records=20, seconds=10, length=128, batch_size=16)


def fit(model, steps, **settings):
    run = trainer(max_steps=steps, **settings)
    run.fit(model, data())
    return run


@pytest.mark.parametrize(
    ("quantizer", "shape"),
    [(VectorQuantizer(16, 8), (3, 32)), (ResidualQuantizer(VectorQuantizer(16, 8), num_quantizers=3), (3, 32, 3))],
)
def test_decode_of_encode_equals_reconstruct(quantizer, shape):
    model = small(quantizer)
    fit(model, 1)  # the codebook is initialized from the first batch
    x = torch.randn(3, 1, 128)
    codes = model.eval().encode(x)
    assert codes.shape == shape
    assert torch.equal(model.reconstruct(x), model.decode(codes))
    assert set(model.example_signals({"signal": x})) == {"input", "reconstruction", "indices"}


def test_model_without_quantizer_has_no_codes():
    model = S4DVQ(quantizer=None)
    x = torch.randn(2, 1, 64)
    assert model.reconstruct(x).shape == x.shape
    assert model.encode(x).unique().tolist() == [0]
    with refused("no codes"):
        model.decode(model.encode(x))


def patches(dim=16, quantizer=None, **options):
    nets = {"patch_size": 16, "fold": 4, "d_model": 8, "num_blocks": 1, "d_state": 8}
    quantizer = quantizer or IdentityQuantizer(dim)
    return build(S4DVQ, PatchEncoder(**nets), PatchDecoder(**nets), quantizer, length=128, klt=True, **options)


def test_transform_of_all_dimensions_is_lossless():
    model, x = patches(), torch.randn(64, 1, 128).cumsum(-1)
    model.fit_transform([x])
    assert (model.eval().reconstruct(x) - x).abs().max() < 1e-5 * x.abs().max()


def test_transform_of_fewer_dimensions_is_the_klt():
    model, x = patches(dim=5), torch.randn(64, 1, 128).cumsum(-1)
    model.fit_transform([x])
    rows = x.view(-1, 16).double()
    rows = rows - rows.mean(0)
    lost = torch.linalg.svdvals(rows)[5:].square().sum() / rows.numel()
    torch.testing.assert_close((model.eval().reconstruct(x) - x).square().mean(), lost.float(), rtol=1e-3, atol=0)


def test_transform_is_fitted_to_the_first_batches_once():
    model = patches(quantizer=VectorQuantizer(32, 16), lr=1e-4)
    run = fit(model, 1, limit_val_batches=0)
    assert not model.first_batches.awaited
    assert not model.quantizer.awaits_first_batch
    basis = model.to_code.weight[..., 0]
    torch.testing.assert_close(basis @ basis.T, torch.eye(16), rtol=0, atol=1e-2)
    run.save_checkpoint("last.ckpt")
    again = S4DVQ.load_from_checkpoint("last.ckpt")
    assert not again.first_batches.awaited
    assert torch.equal(again.to_code.weight, model.to_code.weight)


def test_transform_of_several_batches_is_that_of_one():
    x, sizes = torch.randn(40, 1, 128).cumsum(-1), []
    one, several = (patches(quantizer=VectorQuantizer(32, 16)) for _ in range(2))
    torch.nn.init.normal_(one.encoder.residual.last.weight, std=0.1)
    several.load_state_dict(one.state_dict())
    one.fit_transform([x])
    several.encoder.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    several.fit_transform(iter(x.split(16)))
    assert sizes == [16, 16, 8]
    for name in ("to_code.weight", "to_code.bias", "from_code.weight", "quantizer.codebook"):
        torch.testing.assert_close(several.state_dict()[name], one.state_dict()[name], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(several.quantizer.ema_counts * 3, one.quantizer.ema_counts)


def test_transform_of_two_ranks_is_that_of_one_process(tmp_path):
    x = torch.randn(32, 1, 128).cumsum(-1)
    models = [patches(quantizer=VectorQuantizer(32, 16)) for _ in range(3)]

    def fitted(model, signals):
        model.fit_transform([signals])
        return dict(model.state_dict())

    ranks = on_two_ranks(lambda rank: fitted(models[rank], x[rank::2]), tmp_path)
    whole = fitted(models[2], x)
    for name in ("to_code.weight", "to_code.bias", "quantizer.codebook"):
        assert torch.equal(ranks[0][name], ranks[1][name])
        if name != "quantizer.codebook":  # the sign of a basis vector may differ
            torch.testing.assert_close(ranks[0][name].abs(), whole[name].abs(), rtol=1e-3, atol=1e-4)


def test_several_leads_share_codes():
    nets = {"patch_size": 16, "fold": 4, "d_model": 8, "num_blocks": 1, "d_state": 8}
    quantizer = ResidualQuantizer(VectorQuantizer(64, 48), num_quantizers=6)
    model = S4DVQ(PatchEncoder(3, **nets), PatchDecoder(3, **nets), quantizer, klt=True, channels=3, length=128)
    leads = ECG(num_records=20, seconds=10, length=128, batch_size=16, leads=3)
    trainer(max_steps=1, limit_val_batches=0).fit(model, leads)
    metrics = validate(model, leads)
    assert metrics["val/bits_per_sample"] == 6 * 6 / 48
    ratios = [metrics[f"val/snr_{lead}"] for lead in range(3)]
    assert min(ratios) > 5
    assert metrics["val/snr"] == pytest.approx(sum(ratios) / 3)


def test_transform_coder_needs_no_training():
    model = patches(quantizer=ResidualQuantizer(VectorQuantizer(64, 16), num_quantizers=4), lr=1e-5)
    fit(model, 1, limit_val_batches=0)
    assert validate(model, data())["val/snr"] > 14  # 1.5 bits per sample


def test_modes_have_own_learning_rate_without_decay():
    model = small(lr=1e-2, ssm_lr=2e-3, weight_decay=0.1)
    groups = fit(model, 1).optimizers[0].param_groups
    modes = {p for part in model.modules() if isinstance(part, S4D) for p in part.ssm_parameters()}
    assert [group["lr"] for group in groups] == [1e-2, 2e-3]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert set(groups[1]["params"]) == modes
    listed = [p for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(model.parameters()))
    assert fit(small(lr=1e-4), 1).optimizers[0].param_groups[1]["lr"] == 1e-4


def test_resumed_run_has_the_configured_learning_rate():
    fit(small(lr=1e-3), 1).save_checkpoint("last.ckpt")
    run = trainer(max_steps=2)
    run.fit(small(lr=1e-4), data(), ckpt_path="last.ckpt")
    assert run.optimizers[0].param_groups[0]["lr"] == 1e-4


def test_reconstruction_and_perplexity_after_training():
    model = small(lr=3e-3)
    fit(model, 120, limit_val_batches=0)
    metrics = validate(model, data())
    assert metrics["val/snr"] > 5
    assert metrics["val/correlation"] > 0.8
    assert metrics["val/perplexity"] > 8


WEIGHTS = [{}, {"stft_weight": 0.3}, {"derivative_weight": 2.0}, {"stft_weight": 0.3, "derivative_weight": 2.0}]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_loss_has_the_terms_that_are_in_use(weights):
    model = small(**weights)
    terms = {"loss", "rec_loss", *(name.replace("_weight", "_loss") for name in weights)}
    names = {name for name in validate(model, data()) if name.endswith("loss")}
    assert names == {f"val/{name}" for name in terms}
    names = {name for name in fit(model, 1).callback_metrics if name.endswith("loss")}
    assert names >= {f"train/{name}" for name in terms}
    assert names.isdisjoint(f"train/{name}" for name in {"stft_loss", "derivative_loss"} - terms)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_reconstruction_loss_is_the_weighted_sum(weights):
    x_hat, x = torch.randn(4, 1, 128, requires_grad=True), torch.randn(4, 1, 128)
    expected = F.mse_loss(x_hat, x)
    if "stft_weight" in weights:
        expected = expected + 0.3 * MultiResolutionSTFT()(x_hat, x)
    if "derivative_weight" in weights:
        expected = expected + 2.0 * (x_hat.diff() - x.diff()).square().mean()
    loss, terms = small(**weights).reconstruction_loss(x_hat, x)
    assert torch.equal(loss, expected)
    assert torch.equal(*(torch.autograd.grad(value, x_hat)[0] for value in (loss, expected)))
    assert not any(term.requires_grad for term in terms.values())


def test_training_and_evaluation_have_the_same_loss_in_eval_mode():
    model = small(stft_weight=0.3, derivative_weight=2.0)
    fit(model, 1)
    batch, logged = {"signal": torch.randn(4, 1, 128)}, {}
    model.eval()
    model.log = lambda name, value, **_: logged.update({name: value})
    model.log_dict = lambda values, **_: logged.update(values)
    loss = model.training_step(batch, 0)
    model.evaluate(batch, "val")
    assert loss == logged["train/loss"] == logged["val/loss"]
    terms = ("rec_loss", "stft_loss", "derivative_loss")
    weighted = zip((1, 0.3, 2.0), terms, strict=True)
    quantizer_loss = model(batch["signal"])[1].loss
    torch.testing.assert_close(loss, quantizer_loss + sum(w * logged[f"val/{term}"] for w, term in weighted))
    assert all(logged[f"train/{term}"] == logged[f"val/{term}"] for term in terms)


def test_checkpoint_without_the_weights_loads():
    model = small()
    fit(model, 1).save_checkpoint("last.ckpt")
    checkpoint = torch.load("last.ckpt", weights_only=True)
    for name in ("stft_weight", "derivative_weight"):
        del checkpoint["hyper_parameters"][name]
    torch.save(checkpoint, "old.ckpt")
    x = torch.randn(2, 1, 128)
    assert torch.equal(S4DVQ.load_from_checkpoint("old.ckpt").reconstruct(x), model.eval().reconstruct(x))
