"""What many fuzz cases start from, made once each: a system's whole configuration, and trained runs of it."""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.e2e.systems import SYSTEMS, write_posts
from tests.e2e.tiny import AUTOENCODER, DATA, TRAINER

SECONDS, MEBIBYTES = 60, 4096  # what one case may take
SHORT = ["--trainer.max_steps=2", "--trainer.max_epochs=1", "--trainer.limit_val_batches=1", "--samples.num_images=2"]
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
OFFLINE |= {"no_proxy": "", "NO_PROXY": "", "WANDB_MODE": "disabled"}


def _quantized(*options: str) -> list[str]:
    return ["--model=VQVAE", *AUTOENCODER, *options, *DATA]


def _within(name: str, part: str) -> list[str]:
    inner = f"--model.quantizer.quantizer={part}"
    return _quantized(f"--model.quantizer={name}", inner, f"{inner.replace('=' + part, '')}.num_embeddings=8")


BASES = SYSTEMS | {  # more of the parts that a system is made of
    "FSQ": _quantized("--model.quantizer=FSQ", "--model.quantizer.levels=[4,4]"),
    "LookupFree": _quantized("--model.quantizer=LookupFree", "--model.quantizer.embedding_dim=4"),
    "Gumbel": _quantized(
        "--model.quantizer=GumbelQuantizer",
        *("--model.quantizer.num_embeddings=8", "--model.quantizer.embedding_dim=4"),
        "--model.quantizer.temperature=Anneal",
        *("--model.quantizer.temperature.start=2", "--model.quantizer.temperature.end=0.5"),
        "--model.quantizer.temperature.total_steps=10",
    ),
    "SimVQ": _quantized("--model.quantizer=SimVQ", "--model.quantizer.num_embeddings=8"),
    "IBQ": _quantized("--model.quantizer=IBQ", "--model.quantizer.num_embeddings=8"),
    "Residual": _within("ResidualQuantizer", "VectorQuantizer"),
    "Product": _within("ProductQuantizer", "VectorQuantizer"),
    "MultiScale": [*_within("MultiScaleQuantizer", "VectorQuantizer"), "--model.quantizer.scales=[1,2,4]"],
    "ConvNets": [
        "--model=VQVAE",
        *("--model.encoder=ConvEncoder", "--model.decoder=ConvDecoder"),
        *("--model.encoder.base_channels=32", "--model.decoder.base_channels=32"),
        *("--model.encoder.channel_multipliers=[1,1]", "--model.decoder.channel_multipliers=[1,1]"),
        *("--model.quantizer=VectorQuantizer", "--model.quantizer.num_embeddings=8"),
        *DATA,
    ],
    "Scheduled": [*SYSTEMS["VQVAE"], "--model.schedule.kind=cosine", "--ema.decay=0.9", "--plateau.patience=1"],
}


@dataclass
class Ended:
    """How a command ended."""

    status: int
    output: str
    seconds: float


def execute(command: list[str], arguments: list[str], folder: Path) -> Ended:
    """Run ``vqlab`` with ``arguments`` in ``folder``, offline and with little time and memory."""
    environ = {**os.environ, **OFFLINE, "VQLAB_TEST_LIMITS": f"{SECONDS} {MEBIBYTES}"}
    environ.pop("VQLAB_DEBUG", None)
    begun = time.monotonic()
    ended = subprocess.run([*command, *arguments], cwd=folder, env=environ, stdout=subprocess.PIPE, check=False)
    return Ended(ended.returncode, ended.stdout.decode(errors="replace"), time.monotonic() - begun)


class Stock:
    """Configurations and trained runs, by the name of their base."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command, self.folder = command, folder
        self.config, self.run = cache(self._config), cache(self._run)

    def put_needs(self, base: str, folder: Path) -> None:
        """Put what the options of ``base`` name into ``folder``."""
        if base == "GANTopicModel":
            write_posts(folder / "posts.jsonl")
        if base == "CodePrior":
            shutil.copy(self.run("VQVAE") / "checkpoints/last.ckpt", folder / "tokenizer.ckpt")

    def _config(self, base: str) -> str:
        """Return the whole configuration of ``base``, as YAML."""
        self.put_needs(base, self.folder)
        return self._do("fit", *BASES[base], *TRAINER, *SHORT, "--print_config")

    def _run(self, base: str) -> Path:
        """Return the folder of a run of ``base`` that has trained for two steps."""
        self.put_needs(base, self.folder)
        self._do("fit", *BASES[base], *TRAINER, *SHORT, "--name", base)
        (checkpoint,) = self.folder.glob(f"runs/*/{base}/checkpoints/last.ckpt")
        return checkpoint.parent.parent

    def _do(self, *arguments: str) -> str:
        ended = execute(self.command, list(arguments), self.folder)
        assert ended.status == 0, ended.output
        return ended.output
