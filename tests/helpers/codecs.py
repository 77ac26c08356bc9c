"""Checkpoints, a small S4DVQ with patches of 16 samples, and signals."""

import numpy as np
import torch

from vqlab.models import S4DVQ
from vqlab.nn import PatchDecoder, PatchEncoder
from vqlab.quantizers import ResidualQuantizer, VectorQuantizer
from vqlab.training.data_format import ENTRY

PATCH, LENGTH = 16, 128


def small_s4dvq(mixer="conv", quantizer=None, channels=1, seed=0, **data_format):
    """Return a model whose branches are not zero, with codes that were fitted to a signal."""
    torch.manual_seed(seed)
    nets = {"patch_size": PATCH, "fold": 4, "d_model": 16, "num_blocks": 2, "d_state": 8, "mixer": mixer}
    quantizer = quantizer or ResidualQuantizer(VectorQuantizer(32, 16), num_quantizers=3)
    encoder, decoder = PatchEncoder(channels, **nets), PatchDecoder(channels, **nets)
    for net in (encoder, decoder):
        torch.nn.init.normal_(net.residual.last.weight, std=0.1)
    model = S4DVQ(encoder, decoder, quantizer, klt=True, channels=channels, length=LENGTH)
    x = torch.from_numpy(wave(400 * LENGTH, channels)).view(channels, 400, LENGTH).transpose(0, 1)
    model.fit_transform([(x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)])
    if data_format:
        setattr(model, ENTRY, data_format)
    return model.eval()


def wave(samples, channels=1, seed=0):
    """Return a record (C, T): low-pass noise with a slow drift of mean and amplitude."""
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.standard_normal(channels * samples + 11), np.hanning(12), "valid").reshape(
        channels, samples
    )
    time = np.arange(samples) / 3000
    return (5 + 2 * np.sin(time) + np.exp(np.sin(2 * time)) * noise).astype(np.float32)


def save(path, model, **data_format):
    """Write a checkpoint of ``model``, trained on data of ``data_format``."""
    parameters = {"_class_path": f"{type(model).__module__}.{type(model).__qualname__}", **model.hparams}
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": parameters}
    torch.save(checkpoint | {"data": {"data_format": data_format}}, path)
