"""S4D-VQ: codes, parameter groups and learning."""

import pytest
import torch

from tests.helpers.bare import trainer, validate
from tests.helpers.models import build
from tests.helpers.refusal import refused
from vqlab.data import ECG
from vqlab.models import S4DVQ
from vqlab.nn import S4D, S4DDecoder, S4DEncoder
from vqlab.quantizers import ResidualQuantizer, VectorQuantizer


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


def test_reconstruction_and_perplexity_after_training():
    model = small(lr=3e-3)
    fit(model, 120, limit_val_batches=0)
    metrics = validate(model, data())
    assert metrics["val/snr"] > 5
    assert metrics["val/correlation"] > 0.8
    assert metrics["val/perplexity"] > 8
