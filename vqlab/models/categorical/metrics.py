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
from vqlab.models.categorical.latent import CategoricalLatent
from vqlab.nn.distributed import all_sum
from vqlab.nn.likelihood import Gaussian
from vqlab.training.lightning_fixes import is_log_step

POSTERIOR_STEPS = 10


class CategoricalMetrics(nn.Module):
    """The metrics of a model with categorical codes, and their way into the log.

    Args:
        latent: The densities.
        num_classes: Labels of the data; 0 is none.
        frechet: Distance of images and what their likeliest codes decode to; None computes none.
    """

    def __init__(self, latent: CategoricalLatent, num_classes: int, frechet: FrechetDistance | None) -> None:
        super().__init__()
        num_embeddings, num_codebooks = latent.quantizer.num_embeddings, latent.quantizer.num_codebooks
        if frechet is not None:
            frechet.check_shape(*latent.images.shape)
        self.frechet = frechet
        self.train_usage = CodebookUsage(num_embeddings, num_codebooks)
        self.train_usage.persistent(True)  # a resumed run continues the window that the checkpoint interrupted
        self.usage = CodebookUsage(num_embeddings, num_codebooks)  # of the likeliest codes
        self.posterior_usage = CodebookUsage(num_embeddings, num_codebooks)
        self.proposal = ProposalEntropy(latent.positions, num_embeddings)
        countable = (latent.positions + num_classes) * num_embeddings <= MAX_COUNTS
        self.statistics = CodeStatistics(num_embeddings, latent.positions, num_classes) if countable else None

    def load_frechet(self) -> None:
        """Fetch what the Frechet distance needs."""
        if self.frechet is not None:
            self.frechet.load()

    def code_counts(self) -> Tensor:
        """Return how often each code was the likeliest in this evaluation, (V * K,) int64, over all ranks."""
        return all_sum(self.usage.counts).flatten()

    def log_training(self, model: Any, loss: Tensor, terms: dict[str, Tensor], codes: Tensor) -> None:
        """Log a batch's loss and terms, and the use of all codes (B, P) since the last line of the log."""
        if isinstance(model.latent.likelihood, Gaussian):
            terms["sigma"] = model.latent.likelihood.sigma.detach()
        self.train_usage.update(codes)
        model.log("train/loss", loss.detach(), prog_bar=True)
        if is_log_step(model.trainer, model.global_step + 1):  # Lightning would keep no other batch's terms either
            metrics = self.train_usage.compute()
            self.train_usage.reset()
            model.log("train/perplexity", metrics.pop("perplexity"), prog_bar=True)
            if model.splitter is not None:
                metrics["split_codes"] = model.splitter.total.float()
                model.splitter.total.zero_()
            model.log_dict({f"train/{name}": value for name, value in {**terms, **metrics}.items()})

    def log_evaluation(self, model: Any, batch: dict[str, Tensor], stage: str, num_samples: int) -> None:
        """Log the bounds of the likelihood, and how well codes reconstruct the images of a batch."""
        x, latent = batch["image"], model.latent
        likelihood, value_range = latent.likelihood, latent.value_range
        observed = latent.observe(x)
        log_q = latent.log_q(observed)
        bounds = latent.bounds(x, num_samples, dequantize=True)
        bits = likelihood.bits_per_dim(bounds.importance.mean(), x[0].numel(), value_range)
        metrics = {
            "loss": bounds.importance.mean(),
            "nll": bounds.importance.mean(),
            "nll_elbo": bounds.elbo.mean(),
            "nll_chain": bounds.chain.mean(),
            "bits_per_dim": bits,
            "bits_per_image": latent.positions * math.log2(latent.quantizer.num_embeddings),
        }
        target = value_range.decode(likelihood.image(observed, value_range))
        codes, posterior = log_q.argmax(-1), latent.sample_posterior(x, steps=POSTERIOR_STEPS).flatten(1)
        for prefix, chosen in (("", codes), ("posterior_", posterior)):
            expected = likelihood.expected(latent.output(chosen).float())
            image = value_range.decode(likelihood.image(expected, value_range))
            metrics[f"{prefix}psnr"] = psnr(image, target)
            metrics[f"{prefix}rec_loss"] = (expected - observed).square().mean()
            if latent.perceptual is not None:
                metrics[f"{prefix}{latent.perceptual.name}"] = latent.perceptual(image * 2 - 1, target * 2 - 1).mean()
            if self.frechet is not None and not prefix:
                self.frechet.update(target, real=True)
                self.frechet.update(image, real=False)
        model.log_means(stage, {"psnr": metrics.pop("psnr")}, len(x), prog_bar=True)
        model.log_means(stage, metrics, len(x))
        self.usage.update(codes)
        self.posterior_usage.update(posterior)
        self.proposal.update(log_q)
        if self.statistics is not None:
            self.statistics.update(codes, batch["label"])

    def log_whole_set(self, model: Any, stage: str) -> None:
        """Log the statistics of the codes of all batches, over all ranks."""
        metrics = self.usage.compute() | self.proposal.compute()
        metrics |= {f"posterior_{name}": value for name, value in self.posterior_usage.compute().items()}
        if self.statistics is not None:
            metrics |= self.statistics.compute()
        if self.frechet is not None:
            metrics[f"rfid_{self.frechet.name}"] = self.frechet.compute().float()
            self.frechet.reset()
        for metric in (self.usage, self.posterior_usage, self.proposal, self.statistics):
            if metric is not None:
                metric.reset()
        model.log_dict({f"{stage}/{name}": torch.as_tensor(value) for name, value in metrics.items()}, sync_dist=True)
