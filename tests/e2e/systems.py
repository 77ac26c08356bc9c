"""Every system, so small that it trains in seconds: the options of model and data that a user would type."""

import json
from pathlib import Path

import numpy as np

from tests.e2e.tiny import AUTOENCODER, DATA, NETS, fit
from tests.helpers.planted import Planted

VQGAN = """--model.adversarial.discriminator=PatchGAN --model.adversarial.discriminator.num_layers=2
    --model.adversarial.discriminator.base_channels=32 --model.perceptual_weight=0 --model.adversarial.disc_start=4
    --model.adversarial.lecam_weight=0.1 --model.lr=0.0005"""
CATEGORICAL = "--model.num_embeddings=32 --model.evaluation.nll_samples=4 --model.evaluation.test_nll_samples=4"
JSA = "--model.sampler.num_mis_steps=4 --model.lr=0.002 --model.sampler.cache_start_epoch=0"
PRIOR = "--model.tokenizer=tokenizer.ckpt --model.dim=32 --model.depth=1 --model.heads=2 --model.lr=0.003"
SCALES = ["--model.quantizer=MultiScaleQuantizer", "--model.quantizer.scales=[1,2,4]"]
SCALES += ["--model.quantizer.quantizer=VectorQuantizer", "--model.quantizer.quantizer.num_embeddings=32"]
SCALES += ["--model.quantizer.quantizer.embedding_dim=8"]
SGAN = """--model.generator=ConvGenerator --model.generator.base_channels=16 --model.generator.latent_dim=16
    --model.discriminator=ConvFeatures --model.discriminator.channels=[8,16]"""
S4D = """--model.encoder=S4DEncoder --model.encoder.d_model=8 --model.encoder.d_state=8
    --model.decoder=S4DDecoder --model.decoder.d_model=8 --model.decoder.d_state=8 --model.decoder.in_channels=8
    --model.quantizer=VectorQuantizer --model.quantizer.num_embeddings=16"""
TOPICS = "--model.num_topics=4 --model.hidden_features=16 --model.n_critic=2"
FONT = """--model.lr=0.002 --model.generator=UNet --model.generator.base_channels=4
    --model.discriminator=GlyphDiscriminator --model.discriminator.base_channels=4 --model.discriminator.num_layers=2"""
MODELS = {
    "VQVAE": NETS,
    "VQGAN": ["--model=VQGAN", *NETS[1:], *VQGAN.split()],
    "JSA": ["--model=JSA", *AUTOENCODER, *CATEGORICAL.split(), *JSA.split()],
    "DiscreteVAE": ["--model=DiscreteVAE", *AUTOENCODER, *CATEGORICAL.split()],
    "CodePrior": ["--model=CodePrior", *PRIOR.split()],
    "MaskedPrior": ["--model=MaskedPrior", *PRIOR.split()],
    "NextScalePrior": ["--model=NextScalePrior", *PRIOR.split()],
    "SGAN": ["--model=SGAN", *SGAN.split()],
    "FixMatch": ["--model=FixMatch", "--model.network=ConvFeatures", "--model.network.channels=[8,16]"],
    "S4DVQ": ["--model=S4DVQ", *S4D.split()],
    "GANTopicModel": ["--model=GANTopicModel", *TOPICS.split()],
    "FontGAN": ["--model=FontGAN", *FONT.split()],
}
ECG = "--data=ECG --data.num_records=20 --data.seconds=10 --data.length=128 --data.batch_size=16"
POSTS = "--data=TextFile --data.path=posts.jsonl --data.batch_size=32 --data.min_df=1"
GLYPHS = "--data=FontPairs --data.image_size=32 --data.batch_size=8 --data.charset=ascii --data.cache=null"
SOURCES = {
    "SGAN": [*DATA, "--data.labels_per_class=10"],
    "FixMatch": [*DATA, "--data.labels_per_class=10", "--data.augment=true", "--data.strong_augment=true"],
    "S4DVQ": ECG.split(),
    "GANTopicModel": POSTS.split(),
    "FontGAN": GLYPHS.split(),
}
SYSTEMS = {name: [*model, *SOURCES.get(name, DATA)] for name, model in MODELS.items()}
OFTEN = ["--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null", "--checkpoint.every_n_steps=4"]


def prepare(system: str) -> None:
    """Put what the options of ``system`` name into the current folder: a tokenizer, or 300 posts of four topics."""
    if system.endswith("Prior"):
        scales = SCALES if system == "NextScalePrior" else []
        fit("--name=first", "--trainer.max_steps=8", "--runs=tokenizers", *scales)
        Path("tokenizers/vqvae/first/checkpoints/last.ckpt").rename("tokenizer.ckpt")
    if system != "GANTopicModel":
        return
    data = Planted(num_topics=4, vocab=100, num_documents=300, length=40)
    alphabet = "bcdfghklmn"
    words = [f"word{alphabet[v // 10]}{alphabet[v % 10]}" for v in range(100)]
    rng = np.random.default_rng(0)
    lines = []
    for counts, label in zip(data.bow, data.dominant, strict=True):
        text = " ".join(words[v] for v in rng.permutation(np.repeat(np.arange(100), counts)))
        lines.append(json.dumps({"text": text, "label": f"kind {label}"}) + "\n")
    Path("posts.jsonl").write_text("".join(lines))
