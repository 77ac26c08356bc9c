"""Whatever is no tokenizer, or was trained on other images, is refused in one line."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.helpers.refusal import refused
from vqlab.models.prior.tokenizer import check_data, find_tokenizer
from vqlab.nn.image_format import ImageFormat

TOKENIZER = SimpleNamespace(images=ImageFormat(3, 32))


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
    ("images", "words"),
    [
        (ImageFormat(1), ["1 channel"]),
        (ImageFormat(3, 64), ["image_size is 64", "image_size=32"]),
        (ImageFormat(3, 32, "unit"), ["value_range is unit", "value_range=signed"]),
    ],
)
def test_other_images_are_refused_and_the_same_are_not(images, words):
    with refused(*words):
        check_data(TOKENIZER, images)
    for same in (None, ImageFormat(3, 32), ImageFormat(3, 32, num_classes=10)):
        check_data(TOKENIZER, same)
