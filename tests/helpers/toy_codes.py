"""Tokenizers whose codes are the pixels of the images, and sources of codes with a known entropy."""

import math
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vqlab.nn import ImageFormat
from vqlab.quantizers import MultiScaleQuantizer, VectorQuantizer


class Pixels(nn.Module):
    """A tokenizer whose codes are the quantized pixels."""

    def __init__(self, codes, size):
        super().__init__()
        self.quantizer = SimpleNamespace(num_embeddings=codes, num_codebooks=1)
        self.images = ImageFormat(channels=1, size=size, value_range="unit")

    def encode(self, x):
        return (x[:, 0] * self.quantizer.num_embeddings).long().clamp_max(self.quantizer.num_embeddings - 1)

    def decode(self, codes):
        return as_images(codes, self.quantizer.num_embeddings)


def as_images(codes, num):
    return (codes[:, None] + 0.5) / num


def loader(codes, num, labels=None, batch_size=32):
    """Return codes (N, h, w) as a loader of images and labels."""
    labels = torch.zeros(len(codes), dtype=torch.int64) if labels is None else labels
    return DataLoader(TensorDataset(as_images(codes, num), labels, torch.arange(len(codes))), batch_size=batch_size)


class Pyramid(Pixels):
    """Codes (B, L) of a pyramid of ``scales`` are the first L pixels; the codebook is random."""

    def __init__(self, codes, scales):
        self.length = sum(scale**2 for scale in scales)
        super().__init__(codes, math.isqrt(self.length - 1) + 1)
        generator = torch.Generator().manual_seed(0)
        self.quantizer = MultiScaleQuantizer(VectorQuantizer(codes, 8), scales).eval()
        self.quantizer.quantizer.codebook.data.normal_(generator=generator)

    def encode(self, x):
        return super().encode(x).flatten(1)[:, : self.length]

    def decode(self, codes):
        return super().decode(self.as_map(codes))

    def as_map(self, codes):
        """Return codes (B, L) as a square, padded with zeros."""
        size = self.images.size
        return nn.functional.pad(codes, (0, size**2 - self.length)).view(-1, size, size)


def markov():
    """Return the transition matrix of a Markov chain over 16 codes, and its entropy per token over 16 tokens."""
    generator = np.random.default_rng(0)
    chain = np.zeros((16, 16))
    for row in chain:
        row[generator.permutation(16)[:3]] = generator.dirichlet(np.ones(3))
    marginal, bits = np.full(16, 1 / 16), 4
    row_bits = np.array([-(row[row > 0] * np.log2(row[row > 0])).sum() for row in chain])
    for _ in range(15):
        bits += marginal @ row_bits
        marginal = marginal @ chain
    return torch.tensor(chain), bits / 16


def walks(chain, number):
    tokens = torch.randint(len(chain), (number, 1))
    for _ in range(15):
        tokens = torch.cat([tokens, torch.multinomial(chain[tokens[:, -1]], 1)], 1)
    return tokens.view(number, 4, 4)


def trees(chain, number):
    """Return codes (N, 21) of the scales 1, 2, 4: each code follows the code that it lies under, and their entropy."""
    num = len(chain)
    codes = [torch.randint(num, (number, 1, 1))]
    for _ in range(2):
        above = codes[-1].repeat_interleave(2, 1).repeat_interleave(2, 2)
        codes.append(torch.multinomial(chain[above.flatten()], 1).view_as(above))
    row_bits = -torch.where(chain > 0, chain * chain.clamp_min(1e-9).log2(), 0.0).sum(1)
    marginal = torch.full((num,), 1 / num, dtype=chain.dtype)
    bits = math.log2(num) + 4 * marginal @ row_bits + 16 * (marginal @ chain) @ row_bits
    return torch.cat([scale.flatten(1) for scale in codes], 1), float(bits) / 21
