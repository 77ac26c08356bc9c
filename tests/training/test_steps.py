"""A NaN or infinite loss stops the training on all ranks; gradients are fit for a fused optimizer."""

import math

import pytest
import torch

from tests.helpers.two_ranks import on_two_ranks
from vqlab.training.steps import NonFiniteError, collect, require_finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_error_names_terms_batch_and_step(value, dtype):
    bad, good = torch.tensor(value, dtype=dtype), torch.tensor(3e38, requires_grad=True)
    require_finite({"large": good, "mixed": torch.tensor(-1.0, dtype=dtype)}, batch_idx=0, step=0)
    with pytest.raises(NonFiniteError, match=r"^loss, rec_loss is NaN or infinite at batch 7 \(step 3\)") as error:
        require_finite({"loss": bad, "commitment_loss": good, "rec_loss": bad}, batch_idx=7, step=3)
    assert (error.value.terms, error.value.batch_idx, error.value.step) == (["loss", "rec_loss"], 7, 3)


def error_of_a_rank(rank):
    """Return the message on one of two ranks; only rank 1 has a NaN, at batch 5."""
    require_finite({"loss": torch.tensor(1.0), "rec_loss": torch.tensor(2.0)}, 4, 4)
    try:
        require_finite({"rec_loss": torch.tensor(math.nan if rank == 1 else 2.0)}, 5, 5)
    except NonFiniteError as error:
        return str(error)


def test_both_ranks_raise_the_same_error(tmp_path):
    messages = on_two_ranks(error_of_a_rank, tmp_path)
    assert messages[0].startswith("rec_loss is NaN or infinite at batch 5 (step 5)")
    assert messages[0] == messages[1]


def test_gradients_are_laid_out_in_memory_as_their_parameters():
    conv = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    gradient = torch.randn(4, 3, 3, 3)
    for factor in (1, 2):
        collect((conv.weight * gradient).sum(), [conv.weight])  # this gradient is contiguous
        assert conv.weight.grad.stride() == conv.weight.stride() != gradient.stride()
        torch.testing.assert_close(conv.weight.grad, factor * gradient)
