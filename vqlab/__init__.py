"""vqlab: discrete-representation and adversarial models in PyTorch Lightning.

    from vqlab import VQVAE, FSQ, CIFAR10
    import vqlab; model = vqlab.load("runs/vqvae/first/checkpoints/best.ckpt")

Names are imported when they are first used, so ``import vqlab`` costs next to nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module. A new model, data module, quantizer or network is added here, and the command line knows it.
PUBLIC = {
    "load": "vqlab.training.loading",
    "save_arrays": "vqlab.training.arrays",
    "load_taming": "vqlab.interop.taming",
    "load_diffusers": "vqlab.interop.diffusers",
    "save_diffusers": "vqlab.interop.diffusers",
    "UserError": "vqlab.errors",
    "Schedule": "vqlab.training.schedules",
    "ValueRange": "vqlab.nn.value_range",
    # models
    "VQVAE": "vqlab.models.vqvae",
    "VQGAN": "vqlab.models.vqgan",
    "CodePrior": "vqlab.models.prior",
    "JSA": "vqlab.models.jsa",
    "DiscreteVAE": "vqlab.models.discrete_vae",
    "S4DVQ": "vqlab.models.s4dvq",
    "SGAN": "vqlab.models.sgan",
    "FontGAN": "vqlab.models.font_gan",
    "GANTopicModel": "vqlab.models.gan_topic",
    # quantizers
    "Quantizer": "vqlab.quantizers.base",
    "QuantizerOutput": "vqlab.quantizers.base",
    "VectorQuantizer": "vqlab.quantizers.vector",
    "Unquantized": "vqlab.quantizers.unquantized",
    "FSQ": "vqlab.quantizers.fsq",
    "LookupFree": "vqlab.quantizers.lookup_free",
    "BinarySpherical": "vqlab.quantizers.lookup_free",
    "GumbelQuantizer": "vqlab.quantizers.gumbel",
    "SimVQ": "vqlab.quantizers.sim_vq",
    "IBQ": "vqlab.quantizers.ibq",
    "ResidualQuantizer": "vqlab.quantizers.residual",
    "ProductQuantizer": "vqlab.quantizers.product",
    "MultiScaleQuantizer": "vqlab.quantizers.multi_scale",
    "Anneal": "vqlab.nn.anneal",
    # networks
    "Encoder": "vqlab.nn.base",
    "Decoder": "vqlab.nn.base",
    "Discriminator": "vqlab.nn.base",
    "ConvEncoder": "vqlab.nn.autoencoder",
    "ConvDecoder": "vqlab.nn.autoencoder",
    "SmallEncoder": "vqlab.nn.small_autoencoder",
    "SmallDecoder": "vqlab.nn.small_autoencoder",
    "S4D": "vqlab.nn.s4d",
    "S4DEncoder": "vqlab.nn.s4d_autoencoder",
    "S4DDecoder": "vqlab.nn.s4d_autoencoder",
    "MLPEncoder": "vqlab.nn.mlp",
    "MLPDecoder": "vqlab.nn.mlp",
    "PatchGAN": "vqlab.nn.patchgan",
    "Generator": "vqlab.nn.base",
    "FeatureNet": "vqlab.nn.base",
    "ConvGenerator": "vqlab.nn.gan_conv",
    "ConvFeatures": "vqlab.nn.gan_conv",
    "MLPGenerator": "vqlab.nn.gan_mlp",
    "MLPFeatures": "vqlab.nn.gan_mlp",
    "UNet": "vqlab.nn.unet",
    "GlyphJudge": "vqlab.nn.glyph_judge",
    "Likelihood": "vqlab.nn.likelihood",
    "Gaussian": "vqlab.nn.likelihood",
    "Bernoulli": "vqlab.nn.likelihood",
    # losses
    "Perceptual": "vqlab.losses.perceptual",
    "Transformer": "vqlab.nn.transformer",
    # data
    "CIFAR10": "vqlab.data.cifar10",
    "MNIST": "vqlab.data.mnist",
    "FashionMNIST": "vqlab.data.mnist",
    "ImageFolder": "vqlab.data.image_folder",
    "ImageShards": "vqlab.data.image_shards",
    "ImageArrays": "vqlab.data.image_arrays",
    "Photos": "vqlab.data.photos",
    "Digits": "vqlab.data.digits",
    "ECG": "vqlab.data.ecg",
    "Signals": "vqlab.data.signal_files",
    "FontPairs": "vqlab.data.font_pairs",
    "Docstrings": "vqlab.data.docstrings",
    "Newsgroups": "vqlab.data.newsgroups",
    "TextFolder": "vqlab.data.text_folder",
    "TextFile": "vqlab.data.text_file",
    "BagOfWords": "vqlab.data.bag_of_words",
    # metrics
    "CodebookUsage": "vqlab.metrics.codebook",
    "CodeStatistics": "vqlab.metrics.code_statistics",
    "FrechetDistance": "vqlab.metrics.frechet",
    "ReferenceCorpus": "vqlab.metrics.cooccurrence",
    "TopicClusters": "vqlab.metrics.topic_clusters",
    "topic_figures": "vqlab.metrics.topics",
    "Glyphs": "vqlab.metrics.glyphs",
    # callbacks
    "EMA": "vqlab.callbacks.ema",
    "Plateau": "vqlab.callbacks.plateau",
    "Health": "vqlab.callbacks.health",
    "SampleGrid": "vqlab.callbacks.sample_grid",
}
__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'vqlab' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
