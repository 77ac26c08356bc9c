"""Entropy coding of codes by the probabilities of an autoregressive network, with a range coder (Martin 1979).

A decoder must compute the very probabilities of the encoder, but sums of floating-point numbers depend on their order,
and so on the machine, the number of threads and the size of the batch. So the network runs in float64, its logits are
rounded to multiples of 1/16, and the rest is done in integers. A rounded logit differs only if the logit lies within
the error of float64, about 1e-13, of the middle between two multiples.
"""

import copy
from decimal import Decimal
from functools import partial
from typing import Any

import constriction
import numpy as np
import torch
from torch import Tensor

from vqlab.nn import DepthTransformer, Transformer
from vqlab.samplers import roll_out

CHUNK = 256  # samples that go through the network together; with the sizes below, part of the file format
STEPS = 16  # of a logit of 1
RANGE = 18  # logits more than this below the largest one have the same probability, e^-18
# exp(-n / 16) in units of 2^-32: correctly rounded, and so the same on each machine.
WEIGHTS = np.array([float(round((Decimal(-n) / STEPS).exp() * 2**32)) for n in range(STEPS * RANGE + 1)])

FAMILY = constriction.stream.model.Categorical(perfect=False)
Network = Transformer | DepthTransformer


def encode_by_network(codes: np.ndarray, network: Network) -> bytes:
    """Return codes (N, L) as 32-bit words of a range coder.

    Example:
        >>> network = Transformer(num_tokens=8, length=4, dim=16, depth=1, heads=2)
        >>> codes = np.random.default_rng(0).integers(8, size=(100, 4))
        >>> data = encode_by_network(codes, network)
        >>> len(data), bool((decode_by_network(data, 100, network) == codes).all())
        (152, True)
    """
    network, coder = as_float64(network), constriction.stream.queue.RangeEncoder()

    def store(tokens: Tensor, i: int, logits: Tensor) -> Tensor:
        coder.encode(tokens[:, i].cpu().numpy().astype(np.int32), FAMILY, frequencies(logits))
        return tokens[:, i]

    for tokens in torch.from_numpy(codes).to(network.head.weight.device).split(CHUNK):
        roll_out(network, torch.full_like(tokens[:, 0], network.no_label), partial(store, tokens))
    return coder.get_compressed().astype("<u4").tobytes()


def decode_by_network(data: bytes, count: int, network: Network) -> np.ndarray:
    """Return the codes (count, L) int64; ValueError if ``data`` cannot be those of this network."""
    network, coder = as_float64(network), constriction.stream.queue.RangeDecoder(words_of(data))

    def choose(_: int, logits: Tensor) -> Tensor:
        try:
            return torch.from_numpy(coder.decode(FAMILY, frequencies(logits))).to(logits.device)
        except AssertionError as error:
            raise ValueError(str(error)) from error

    label = torch.full((count,), network.no_label, device=network.head.weight.device)
    tokens = torch.cat([roll_out(network, part, choose) for part in label.split(CHUNK)])
    if not coder.maybe_exhausted():
        raise ValueError(f"{len(data)} bytes are too many for {count} samples")
    return tokens.cpu().numpy()


def words_of(data: bytes) -> np.ndarray:
    """Return the 32-bit words (n,) of ``data``; ValueError if there is a rest."""
    return np.frombuffer(data, "<u4").astype(np.uint32)


def as_float64(network: Network) -> Any:
    """Return a copy in float64 and eval mode."""
    return copy.deepcopy(network).double().eval()


def frequencies(logits: Tensor) -> np.ndarray:
    """Return integers (B, K), as float64, in the ratio of the probabilities of ``logits`` (B, K) after rounding."""
    steps = (STEPS * logits).round()
    below = (steps.amax(-1, keepdim=True) - steps).clamp_max(len(WEIGHTS) - 1)
    return WEIGHTS[below.long().cpu().numpy()]
