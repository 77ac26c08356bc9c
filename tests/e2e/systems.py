"""Every system, so small that it trains in seconds: the options of model and data that a user would type."""

import json
from pathlib import Path

import numpy as np

from tests.e2e.tiny import AUTOENCODER, DATA, NETS, fit
from tests.helpers.planted import Planted

MODELS = {
    "VQVAE": NETS,
    "VQGAN": [
        "--model=VQGAN",
        *NETS[1:],
        "--model.adversarial.discriminator=PatchGAN",
        "--model.adversarial.discriminator.num_layers=2",
        "--model.adversarial.discriminator.base_channels=32",
        "--model.perceptual_weight=0",
        "--model.adversarial.disc_start=4",
        "--model.adversarial.lecam_weight=0.1",
        "--model.lr=0.0005",
    ],
    "JSA": [
        "--model=JSA",
        *AUTOENCODER,
        "--model.num_embeddings=32",
        "--model.sampler.num_mis_steps=4",
        "--model.evaluation.nll_samples=4",
        "--model.lr=0.002",
        "--model.sampler.cache_start_epoch=0",
    ],
    "DiscreteVAE": [
        "--model=DiscreteVAE",
        *AUTOENCODER,
        "--model.num_embeddings=32",
        "--model.evaluation.nll_samples=4",
    ],
    "CodePrior": [
        "--model=CodePrior",
        "--model.tokenizer=tokenizer.ckpt",
        "--model.dim=32",
        "--model.depth=1",
        "--model.heads=2",
        "--model.lr=0.003",
    ],
    "SGAN": [
        "--model=SGAN",
        "--model.generator=ConvGenerator",
        "--model.generator.base_channels=16",
        "--model.generator.latent_dim=16",
        "--model.discriminator=ConvFeatures",
        "--model.discriminator.channels=[8,16]",
    ],
    "S4DVQ": [
        "--model=S4DVQ",
        *(f"--model.{part}=S4D{part.capitalize()}" for part in ("encoder", "decoder")),
        *(f"--model.{part}.{size}=8" for part in ("encoder", "decoder") for size in ("d_model", "d_state")),
        "--model.decoder.in_channels=8",
        "--model.quantizer=VectorQuantizer",
        "--model.quantizer.num_embeddings=16",
    ],
    "GANTopicModel": [
        "--model=GANTopicModel",
        "--model.num_topics=4",
        "--model.hidden_features=16",
        "--model.n_critic=2",
    ],
    "FontGAN": [
        "--model=FontGAN",
        "--model.lr=0.002",
        "--model.generator=UNet",
        "--model.generator.base_channels=4",
        "--model.discriminator=GlyphDiscriminator",
        "--model.discriminator.base_channels=4",
        "--model.discriminator.num_layers=2",
    ],
}
SOURCES = {
    "SGAN": [*DATA, "--data.labels_per_class=10"],
    "S4DVQ": [
        "--data=ECG",
        "--data.num_records=20",
        "--data.seconds=10",
        "--data.length=128",
        "--data.batch_size=16",
    ],
    "GANTopicModel": ["--data=TextFile", "--data.path=posts.jsonl", "--data.batch_size=32", "--data.min_df=1"],
    "FontGAN": [
        "--data=FontPairs",
        "--data.image_size=32",
        "--data.batch_size=8",
        "--data.charset=ascii",
        "--data.cache=null",
    ],
}
SYSTEMS = {name: [*model, *SOURCES.get(name, DATA)] for name, model in MODELS.items()}
OFTEN = ["--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null", "--checkpoint.every_n_steps=4"]


def prepare(system: str) -> None:
    """Put what the options of ``system`` name into the current folder."""
    if system == "GANTopicModel":
        write_posts()
    if system == "CodePrior":
        fit("--name=first", "--trainer.max_steps=8", "--runs=tokenizers")
        Path("tokenizers/vqvae/first/checkpoints/last.ckpt").rename("tokenizer.ckpt")


def write_posts(path: Path = Path("posts.jsonl")) -> None:
    """Write 300 posts of four topics, with labels."""
    data = Planted(num_topics=4, vocab=100, num_documents=300, length=40)
    alphabet = "bcdfghklmn"
    words = [f"word{alphabet[v // 10]}{alphabet[v % 10]}" for v in range(100)]
    rng = np.random.default_rng(0)
    lines = []
    for counts, label in zip(data.bow, data.dominant, strict=True):
        text = " ".join(words[v] for v in rng.permutation(np.repeat(np.arange(100), counts)))
        lines.append(json.dumps({"text": text, "label": f"kind {label}"}) + "\n")
    path.write_text("".join(lines))
