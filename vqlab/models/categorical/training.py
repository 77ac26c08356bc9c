"""Settings, optimizer steps, logs and evaluation of the models with categorical codes, JSA and DiscreteVAE."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.losses.adversarial import linearized
from vqlab.metrics import CodebookUsage, FrechetDistance, ProposalEntropy, psnr
from vqlab.metrics.codes import MAX_COUNTS, CodeStatistics
from vqlab.models.adversarial import AdversarialLoss, AdversarialSettings
from vqlab.models.categorical.code_splitting import CodeSplitter
from vqlab.models.categorical.latent import CategoricalLatent
from vqlab.nn import Gaussian
from vqlab.nn.distributed import all_sum, world_size
from vqlab.quantizers.sampling import step_seed, uniform_by_sample
from vqlab.training import Optimization
from vqlab.training.learning_rate import check_lr, configured_rate
from vqlab.training.lightning_fixes import is_log_step
from vqlab.training.steps import clip, count_batch, step_and_zero
from vqlab.validation import Count, Positive, check_fields

TOP_PARTS = 4, 16, 64  # of all codes: the numbers of codes of ``top_code_images``

P = ParamSpec("P")
R = TypeVar("R")


class LossOutput(NamedTuple):
    """The loss of a batch, and other results of the same forward pass."""

    loss: Tensor  # scalar in nats per image
    mse: Tensor  # mean squared error of the decoded codes
    codes: Tensor  # (B, P)
    terms: dict[str, Tensor]  # scalars for the log


@dataclass(frozen=True)
class ProposalOptimization(Optimization):
    """Optimizer settings of p and q.

    Args:
        kind: ``adam``, with decoupled weight decay (AdamW); ``muon``, for matrices and convolutions, with AdamW for
            the other parameters; or ``rmsprop``, without betas and decay.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay; never on embeddings, prior and sigma.
        schedule: Learning-rate schedule, counted as ``global_step``; null is constant.
        clip: Largest gradient norm of p, and of q; null does not clip.
        proposal_lr: Absolute learning rate of q. Default without ``proposal_base_lr``: that of p.
        proposal_base_lr: Rate per image of q.

    Example:
        >>> ProposalOptimization(proposal_lr=1e-4).proposal_lr
        0.0001
    """

    proposal_lr: Positive | None = None
    proposal_base_lr: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lr(self.proposal_lr, self.proposal_base_lr)


@dataclass(frozen=True, eq=False)
class EvaluationSettings:
    """Evaluation settings of a model with categorical codes.

    Args:
        nll_samples: Draws per image for ``val/nll``.
        test_nll_samples: Draws per image for ``test/nll``.
        frechet: As in ``VQVAE``.

    Example:
        >>> EvaluationSettings(nll_samples=16).test_nll_samples
        1000
    """

    nll_samples: Count = 64
    test_nll_samples: Count = 1000
    frechet: FrechetDistance | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def of_latent(method: Callable[Concatenate[CategoricalLatent, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Return a method of the model that calls ``method`` of its ``latent``."""

    @functools.wraps(method)
    def of_model(model: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return getattr(model.latent, method.__name__)(*args, **kwargs)

    return of_model


def nll(model: Any, x: Tensor, num_samples: int = 1000) -> Tensor:
    """Estimate -ln p(x) (B,) in nats by importance sampling from q: an upper bound in expectation."""
    return model.latent.bounds(x, num_samples).importance


def build_parts(model: Any, adversarial: AdversarialSettings, split_ratio: float | None) -> None:
    """Set the attributes ``adversarial``, ``splitter`` and ``metrics`` of a model with a ``latent``."""
    latent: CategoricalLatent = model.latent
    model.adversarial, model.splitter = None, None
    if adversarial.disc_weight:
        if not isinstance(latent.likelihood, Gaussian):
            # A discriminator trivially separates Bernoulli means from binary images.
            raise UserError("disc_weight must be 0 without a Gaussian likelihood: set disc_weight=0")
        model.adversarial = AdversarialLoss(adversarial, latent.decoder, latent.images, model.accumulate)
    # A learned prior assigns rare codes a low probability, so copies of a code would not share its images.
    if split_ratio is not None and model.init_args["prior"] == "uniform":
        code = latent.quantizer
        model.splitter = CodeSplitter(code.num_codebooks, code.num_embeddings, split_ratio)
    model.metrics = CategoricalMetrics(latent, latent.images.num_classes or 0, model.evaluation.frechet)


def adversarial_loss(model: Any, x: Tensor, codes: Tensor, batch_idx: int) -> tuple[Tensor | float, dict[str, Tensor]]:
    """Train the discriminator on decoded ``codes`` (B, P); return the weighted generator loss, and terms."""
    adversarial, latent, step = model.adversarial, model.latent, model.global_step
    if adversarial is None:
        return 0.0, {}
    if not adversarial.is_active(step):
        return adversarial.zero(), {}
    x_hat = latent.output(codes).float()
    terms = adversarial.train_discriminator(x, x_hat, model.trainer.optimizers[1], batch_idx, step)
    rec_loss = linearized(-latent.log_likelihood(x, x_hat).mean(), x_hat)
    dims = x[0].numel()  # the bounds of the adaptive weight are for losses per pixel and channel
    g_loss, g_terms = adversarial.generator_loss(x_hat, rec_loss / dims, latent.decoder, step)
    return dims * g_loss, terms | g_terms


def uniform_numbers(model: Any, x: Tensor, count: int, index: Tensor | None) -> Tensor:
    """Return (B, count) numbers in (0, 1), a function of seed, step and image if the ``index`` of images is known."""
    if index is None:
        return torch.rand(len(x), count, device=x.device, dtype=torch.float64)
    seed = step_seed(model.seed, torch.tensor(model.global_step, device=x.device))
    return uniform_by_sample(index, count, seed).view(len(x), count)


def step_optimizers(model: Any, codes: Tensor, mse: Tensor) -> None:
    """Step p and q once per ``accumulate`` batches, split codes, update sigma by the ``mse``, and count the batch."""
    latent: CategoricalLatent = model.latent
    optimizer, *discriminator = model.trainer.optimizers
    model.optimizer_stepped = (model.global_step + 1) % model.accumulate == 0
    if model.splitter is not None:
        model.splitter.count(codes)
    if model.optimizer_stepped:
        if model.adversarial is not None and model.adversarial.waits_for_step(model.global_step):
            model.adversarial.step(discriminator[0])
        step_and_zero(model, optimizer)
        if model.splitter is not None:
            model.splitter.split(latent.quantizer, optimizer)
    latent.likelihood.update(all_sum(mse) / world_size())
    count_batch(model)


def configure_optimizers(model: Any) -> Any:
    """Return one optimizer for p and q, with a learning rate for each, and the discriminator's."""
    settings: ProposalOptimization = model.optimization
    lr, base_lr = settings.proposal_lr, settings.proposal_base_lr
    if lr is None and base_lr is None:
        lr, base_lr = model.lr, model.base_lr
    rate = configured_rate(model, lr, base_lr, model.default_lr, "proposal")
    networks, tables, proposal = model.latent.parameter_groups()
    groups = [{"params": networks}, {"params": tables, "weight_decay": 0.0}]
    groups.append({"params": proposal, "lr": rate, "name": "proposal"})
    optimizers = [settings.optimizer(model, groups, "joint")]
    return optimizers if model.adversarial is None else [*optimizers, model.adversarial.configure_optimizer(model)]


def clip_gradients(model: Any, optimizer: Any) -> None:
    """Clip the gradients of p and those of q."""
    networks, tables, proposal = model.latent.parameter_groups()
    clip([*networks, *tables], model.optimization.clip)
    clip(proposal, model.optimization.clip)


def code_counts(model: Any) -> Tensor:
    """Return how often each code was the most probable in this evaluation, (V * K,) int64, summed over ranks."""
    return all_sum(model.metrics.usage.counts).flatten()


def code_histograms(model: Any) -> dict[str, Tensor]:
    """Return how often each code was the most probable, by ``position`` and ``class``, (G, K) int64, of all ranks."""
    statistics = model.metrics.statistics
    if statistics is None:
        return {}
    return {name: all_sum(getattr(statistics, f"{name}_counts")) for name in statistics.groups}


def top_code_images(model: Any, batch: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    """Return ``input``, and reconstructions from all codes and from the k of the largest ``counts`` (V * K,)."""
    x, latent, value_range = batch["image"], model.latent, model.value_range
    observed = latent.observe(x)
    log_q = latent.log_q(observed)
    counts = counts.view(latent.quantizer.num_codebooks, -1)
    size = counts.shape[1]
    images = {"input": latent.likelihood.image(observed, value_range)}
    for k in sorted({size, *(max(1, size // part) for part in TOP_PARTS)}, reverse=True):
        rare = torch.ones_like(counts, dtype=torch.bool).scatter(1, counts.topk(k).indices, False)
        masked = log_q.unflatten(1, (-1, len(rare))).masked_fill(rare, -math.inf)
        images["all codes" if k == size else f"top {k}"] = latent.decode(latent.to_map(masked.argmax(-1).flatten(1)))
    return {name: value_range.decode(image) for name, image in images.items()}


class CategoricalMetrics(nn.Module):
    """Counts of the codes that a model draws in training and in evaluation."""

    def __init__(self, latent: CategoricalLatent, num_classes: int, frechet: FrechetDistance | None) -> None:
        super().__init__()
        num_embeddings, num_codebooks = latent.quantizer.num_embeddings, latent.quantizer.num_codebooks
        if frechet is not None:
            frechet.check_shape(*latent.images.shape)
        self.frechet = frechet
        self.train_usage = CodebookUsage(num_embeddings, num_codebooks)
        self.train_usage.persistent(True)  # a resumed run continues the window between two log lines
        self.usage = CodebookUsage(num_embeddings, num_codebooks)  # of the most probable codes
        self.posterior_usage = CodebookUsage(num_embeddings, num_codebooks)
        self.proposal = ProposalEntropy(latent.positions, num_embeddings)
        countable = (latent.positions + num_classes) * num_embeddings <= MAX_COUNTS
        self.statistics = CodeStatistics(num_embeddings, latent.positions, num_classes) if countable else None


def log_training(model: Any, loss: Tensor, terms: dict[str, Tensor], codes: Tensor) -> None:
    """Log a batch's loss and terms, and the codebook utilization since the last log line; ``codes`` are (B, P)."""
    if isinstance(model.latent.likelihood, Gaussian):
        terms["sigma"] = model.latent.likelihood.sigma.detach()
    model.metrics.train_usage.update(codes)
    model.log("train/loss", loss.detach(), prog_bar=True)
    if is_log_step(model.trainer, model.global_step + 1):
        metrics = model.metrics.train_usage.compute()
        model.metrics.train_usage.reset()
        model.log("train/perplexity", metrics.pop("perplexity"), prog_bar=True)
        if model.splitter is not None:
            metrics["split_codes"] = model.splitter.total.float()
            model.splitter.total.zero_()
        model.log_dict({f"train/{name}": value for name, value in {**terms, **metrics}.items()})


def evaluate(model: Any, batch: dict[str, Tensor], stage: str) -> None:
    """Log the bounds of the likelihood, and the quality of reconstructions from q's codes and from the posterior's."""
    x, latent, counted = batch["image"], model.latent, model.metrics
    likelihood, value_range = latent.likelihood, latent.value_range
    observed = latent.observe(x)
    log_q = latent.log_q(observed)
    num_samples = model.evaluation.nll_samples if stage == "val" else model.evaluation.test_nll_samples
    bounds = latent.bounds(x, num_samples, dequantize=True)
    metrics = {
        "loss": bounds.importance.mean(),
        "nll": bounds.importance.mean(),
        "nll_elbo": bounds.elbo.mean(),
        "nll_chain": bounds.chain.mean(),
        "bits_per_dim": likelihood.bits_per_dim(bounds.importance.mean(), x[0].numel(), value_range),
        "bits_per_image": latent.positions * math.log2(latent.quantizer.num_embeddings),
    }
    target = value_range.decode(likelihood.image(observed, value_range))
    codes, posterior = log_q.argmax(-1), latent.encode(x, "posterior").flatten(1)
    for prefix, chosen in (("", codes), ("posterior_", posterior)):
        expected = likelihood.expected(latent.output(chosen).float())
        image = value_range.decode(likelihood.image(expected, value_range))
        metrics[f"{prefix}psnr"] = psnr(image, target)
        metrics[f"{prefix}rec_loss"] = (expected - observed).square().mean()
        if latent.perceptual is not None:
            metrics[f"{prefix}{latent.perceptual.name}"] = latent.perceptual(image * 2 - 1, target * 2 - 1).mean()
        if counted.frechet is not None and not prefix:
            counted.frechet.update(target, real=True)
            counted.frechet.update(image, real=False)
    model.log_means(stage, {"psnr": metrics.pop("psnr")}, len(x), prog_bar=True)
    model.log_means(stage, metrics, len(x))
    counted.usage.update(codes)
    counted.posterior_usage.update(posterior)
    counted.proposal.update(log_q)
    if counted.statistics is not None:
        counted.statistics.update(codes, batch["label"])


def finish_evaluation(model: Any, stage: str) -> None:
    """Log the statistics of the codes of the whole set."""
    counted = model.metrics
    metrics = counted.usage.compute() | counted.proposal.compute()
    metrics |= {f"posterior_{name}": value for name, value in counted.posterior_usage.compute().items()}
    if counted.statistics is not None:
        metrics |= counted.statistics.compute()
    if counted.frechet is not None:
        metrics[f"rfid_{counted.frechet.name}"] = counted.frechet.compute().float()
    for metric in (counted.usage, counted.posterior_usage, counted.proposal, counted.statistics, counted.frechet):
        if metric is not None:
            metric.reset()
    model.log_dict({f"{stage}/{name}": torch.as_tensor(value) for name, value in metrics.items()}, sync_dist=True)
