"""What the models with categorical codes log: their losses, bounds, and the statistics of their codes."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vqlab.metrics.codes.entropy import ProposalEntropy
from vqlab.metrics.codes.statistics import MAX_COUNTS, CodeStatistics
from vqlab.metrics.codes.usage import CodebookUsage
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.metrics.images.psnr import psnr
from vqlab.training.log_interval import is_log_step

POSTERIOR_STEPS = 10


class Figures(nn.Module):
    """The metrics of a :class:`~vqlab.models.categorical.base.CategoricalModel`, and their way into the log.

    Args:
        num_embeddings: Categories, K.
        num_codebooks: Variables per place, V.
        positions: Positions of a code, P.
        num_classes: Labels of the data; 0 is none.
        frechet: Distance of images and what their likeliest codes decode to; null has none.
    """

    def __init__(
        self,
        num_embeddings: int,
        num_codebooks: int,
        positions: int,
        num_classes: int,
        frechet: FrechetDistance | None = None,
    ) -> None:
        super().__init__()
        self.frechet = frechet
        self.train_usage = CodebookUsage(num_embeddings, num_codebooks)
        self.train_usage.persistent(True)  # a resumed run continues the window that the checkpoint interrupted
        self.usage = CodebookUsage(num_embeddings, num_codebooks)  # of the likeliest codes
        self.posterior_usage = CodebookUsage(num_embeddings, num_codebooks)
        self.proposal = ProposalEntropy(positions, num_embeddings)
        countable = (positions + num_classes) * num_embeddings <= MAX_COUNTS
        self.statistics = CodeStatistics(num_embeddings, positions, num_classes) if countable else None

    def log_training(self, model: Any, loss: Tensor, terms: dict[str, Tensor], codes: Tensor) -> None:
        """Log a batch's loss and terms, and the use of all codes (B, P) since the last line of the log."""
        self.train_usage.update(codes)
        model.log("train/loss", loss.detach(), prog_bar=True)
        if is_log_step(model.trainer, model.global_step + 1):  # Lightning would keep no other batch's terms either
            figures = self.train_usage.compute()
            self.train_usage.reset()
            model.log("train/perplexity", figures.pop("perplexity"), prog_bar=True)
            if model.splitter is not None:
                figures["split_codes"] = model.splitter.total.float()
                model.splitter.total.zero_()
            model.log_dict({f"train/{name}": value for name, value in {**terms, **figures}.items()})

    def log_evaluation(self, model: Any, batch: dict[str, Tensor], stage: str, num_samples: int) -> None:
        """Log the bounds of the likelihood, and how well codes reconstruct the images of a batch."""
        x, likelihood, value_range = batch["image"], model.likelihood, model.value_range
        observed = model.observe(x)
        log_q = model.log_q(observed)
        bounds = model.bracket(x, num_samples, dequantize=True)
        bits = likelihood.bits_per_dim(bounds.importance.mean(), x[0].numel(), value_range)
        figures = {
            "loss": bounds.importance.mean(),
            "nll": bounds.importance.mean(),
            "nll_elbo": bounds.elbo.mean(),
            "nll_chain": bounds.chain.mean(),
            "bits_per_dim": bits,
            "bits_per_image": model.positions * math.log2(model.quantizer.num_embeddings),
        }
        target = value_range.decode(likelihood.image(observed, value_range))
        codes, posterior = log_q.argmax(-1), model.sample_posterior(x, steps=POSTERIOR_STEPS).flatten(1)
        for prefix, chosen in (("", codes), ("posterior_", posterior)):
            expected = likelihood.expected(model.output(chosen).float())
            image = value_range.decode(likelihood.image(expected, value_range))
            figures[f"{prefix}psnr"] = psnr(image, target)
            figures[f"{prefix}rec_loss"] = (expected - observed).square().mean()
            if model.perceptual is not None:
                figures[f"{prefix}{model.perceptual.name}"] = model.perceptual(image * 2 - 1, target * 2 - 1).mean()
            if self.frechet is not None and not prefix:
                self.frechet.update(target, real=True)
                self.frechet.update(image, real=False)
        over_all: dict[str, Any] = {"on_epoch": True, "sync_dist": True, "batch_size": len(x)}
        model.log(f"{stage}/psnr", figures.pop("psnr"), prog_bar=True, **over_all)
        model.log_dict({f"{stage}/{name}": value for name, value in figures.items()}, **over_all)
        self.usage.update(codes)
        self.posterior_usage.update(posterior)
        self.proposal.update(log_q)
        if self.statistics is not None:
            self.statistics.update(codes, batch["label"])

    def log_whole_set(self, model: Any, stage: str) -> None:
        """Log the statistics of the codes of all batches, over all ranks."""
        figures = self.usage.compute() | self.proposal.compute()
        figures |= {f"posterior_{name}": value for name, value in self.posterior_usage.compute().items()}
        if self.statistics is not None:
            figures |= self.statistics.compute()
        if self.frechet is not None:
            figures[f"rfid_{self.frechet.name}"] = self.frechet.compute().float()
            self.frechet.reset()
        for metric in (self.usage, self.posterior_usage, self.proposal, self.statistics):
            if metric is not None:
                metric.reset()
        model.log_dict({f"{stage}/{name}": torch.as_tensor(value) for name, value in figures.items()}, sync_dist=True)
