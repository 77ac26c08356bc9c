"""No network is built of so many layers that it takes minutes."""

import pytest

from tests.helpers.refusal import refused
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.nn.autoencoders.s4d import S4DDecoder, S4DEncoder
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.gan.patchgan import PatchGAN
from vqlab.nn.layer_counts import MOST, check_layers
from vqlab.nn.transformer import Transformer


@pytest.mark.parametrize(
    ("build", "name"),
    [
        *[(net, "num_res_blocks") for net in (ConvEncoder, ConvDecoder, SmallEncoder, SmallDecoder)],
        *[(net, "num_blocks") for net in (S4DEncoder, S4DDecoder)],
        (PatchGAN, "num_layers"),
        (lambda depth: Transformer(8, 4, depth=depth), "depth"),
    ],
)
def test_more_layers_than_anyone_trains_are_refused(build, name):
    with refused(f"{name} must be at most {MOST}", "1000000000"):
        build(**{name: 10**9})


def test_the_most_that_is_allowed():
    check_layers(depth=MOST)
