"""Whatever is no tokenizer, or was trained on other images, is refused in one line."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.helpers.refusal import refused
from vqlab.models.prior.tokenizer import check_data, find_tokenizer
from vqlab.nn.value_range import ValueRange

TOKENIZER = SimpleNamespace(channels=3, image_size=32, value_range=ValueRange("signed"))


def test_a_second_stage_hands_its_tokenizer_on():
    verbs = dict.fromkeys(("encode", "decode", "quantizer"))
    first = SimpleNamespace(**verbs, **vars(TOKENIZER))
    assert find_tokenizer(SimpleNamespace(tokenizer=SimpleNamespace(net=first))) is first
    assert find_tokenizer(first) is first


def test_what_is_no_tokenizer():
    with refused("tokenizer must be a trained model", "checkpoint"):
        find_tokenizer(None)
    with refused("Identity is no tokenizer", "encode, decode, quantizer"):
        find_tokenizer(nn.Identity())
    torch.save({"weights": 1}, "other.ckpt")
    with refused("other.ckpt", "state_dict"):
        find_tokenizer("other.ckpt")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((1, 32, "signed"), ["1 channel", "--data"]),
        ((3, 64, "signed"), ["64", "--data.image_size=32"]),
        ((3, 32, "unit"), ["unit", "--data.value_range=signed"]),
        ((None, None, ValueRange("unit")), ["--data.value_range=signed"]),
    ],
)
def test_other_images(data, words):
    with refused(*words):
        check_data(TOKENIZER, *data)


@pytest.mark.parametrize("data", [(3, 32, "signed"), (None, None, None), (3, 32, ValueRange("signed"))])
def test_the_same_images(data):
    check_data(TOKENIZER, *data)
