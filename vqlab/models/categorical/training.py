"""What JSA and DiscreteVAE share besides their losses: settings, verbs, code splitting, parts of a step, evaluation."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.losses.adversarial import linearized
from vqlab.metrics import CodebookUsage, FrechetDistance, ProposalEntropy, psnr
from vqlab.metrics.codes import MAX_COUNTS, CodeStatistics
from vqlab.models.adversarial import AdversarialLoss, AdversarialSettings
from vqlab.models.categorical.latent import CategoricalLatent
from vqlab.models.model import Model
from vqlab.nn.categorical import CategoricalCode
from vqlab.nn.distributed import all_sum, world_size
from vqlab.nn.likelihood import Gaussian
from vqlab.quantizers.sampling import step_seed, uniform_by_sample
from vqlab.training.batches import passed_on
from vqlab.training.learning_rate import check_lr, configured_rate
from vqlab.training.lightning_fixes import is_log_step
from vqlab.training.manual import count_batch, step_and_zero
from vqlab.training.optimization import Optimization
from vqlab.validation import Count, Positive, check_fields

POSTERIOR_STEPS = 10
LOOK = 100  # draws per code between two splits: enough to know a common code from a rare one
P = ParamSpec("P")
R = TypeVar("R")


class LossOutput(NamedTuple):
    """The loss of a batch, and what goes with it."""

    loss: Tensor  # scalar in nats per image, with gradients to all parts
    mse: Tensor  # mean squared error of the decoded codes, in the units of what is modelled
    codes: Tensor  # codes (B, P) of the batch, to be counted
    terms: dict[str, Tensor]  # scalars for the log


@dataclass(frozen=True)
class ProposalOptimization(Optimization):
    """Optimizer settings of p and q; those of ``Optimization`` are for both.

    Args:
        weight_decay: Decoupled weight decay; none on embeddings, prior and sigma.
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
    """How a model with categorical codes is evaluated.

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
    """Return ``method`` as a method of the model whose ``latent`` has it."""

    @functools.wraps(method)
    def of_model(model: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return getattr(model.latent, method.__name__)(*args, **kwargs)

    return of_model


class CategoricalModel(Model):
    """A model with a ``latent``; a subclass has the loss and the training step.

    Args:
        encoder: Network of q. Default: a ``ConvEncoder``.
        decoder: Network of p(x | h), ``in_channels`` the dimension of the embeddings. Default: a ``ConvDecoder``.
        num_embeddings: Categories, K.
        num_latents: Categorical variables at each place of the map, V; codes are (B, h, w), above 1 (B, h, w, V).
        likelihood: p(x | h). Default: a ``Gaussian`` whose sigma is the optimal one.
        smoothing: Fraction of the uniform distribution in q, which bounds the weight that a draw can get.
        split_ratio: See ``CodeSplitter``; for a uniform prior, because others learn that codes are rare; null: never.
        perceptual: Default: LPIPS on VGG features, whose weights are fetched once; not built at weight 0.
        perceptual_weight: Nats per unit of LPIPS, taken off ln p(x | h) in training and sampling, not in bounds.
        adversarial: Discriminator of decoded codes, for a ``Gaussian`` likelihood.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulate. Give one of the two.
        optimization: Optimizer settings.
        accumulate: Batches per optimizer step.
        evaluation: Evaluation settings.
        decode_chunk: Codes that are decoded at once, which bounds the memory.
        seed: Seed of the draws, which depend on it, the step and the image alone.
        images: Format of the images; the command line takes it from the data.
    """

    modality = "image"
    default_lr = 3e-4
    renamed_keys: ClassVar = {  # until 0.1, and now
        **{f"{part}.": f"latent.{part}." for part in ("encoder", "decoder", "quantizer", "likelihood", "prior")},
        "figures.": "metrics.",
        "discriminator.": "adversarial.discriminator.",
    }
    latent: CategoricalLatent
    optimization: ProposalOptimization
    evaluation: EvaluationSettings
    accumulate: int
    seed: int

    def build(self, adversarial: AdversarialSettings, split_ratio: float | None) -> None:
        """Add discriminator, code splitting and metrics to a model that has its ``latent``."""
        self.automatic_optimization = False
        self.images, self.value_range = self.latent.images, self.latent.images.value_range
        self.adversarial: AdversarialLoss | None = None
        if adversarial.disc_weight:
            if not isinstance(self.latent.likelihood, Gaussian):
                raise UserError(
                    "disc_weight must be 0 without a Gaussian likelihood: a discriminator trivially separates "
                    "Bernoulli means from binary images"
                )
            self.adversarial = AdversarialLoss(adversarial, self.latent.decoder, self.images, self.accumulate)
        self.splitter: CodeSplitter | None = None
        if split_ratio is not None and self.init_args["prior"] == "uniform":
            self.splitter = CodeSplitter(self.quantizer.num_codebooks, self.quantizer.num_embeddings, split_ratio)
        self.metrics = CategoricalMetrics(self.latent, self.images.num_classes or 0, self.evaluation.frechet)

    encode = of_latent(CategoricalLatent.encode)
    decode = of_latent(CategoricalLatent.decode)
    reconstruct = of_latent(CategoricalLatent.reconstruct)
    sample = of_latent(CategoricalLatent.sample)
    bounds = of_latent(CategoricalLatent.bounds)
    example_images = of_latent(CategoricalLatent.example_images)

    @property
    def quantizer(self) -> CategoricalCode:
        """The codes: their number, and their embeddings."""
        return self.latent.quantizer

    def nll(self, x: Tensor, num_samples: int = 1000) -> Tensor:
        """Estimate -ln p(x) (B,) in nats by importance sampling from q: an upper bound in expectation."""
        return self.latent.bounds(x, num_samples).importance

    def code_counts(self) -> Tensor:
        """Return how often each code was the likeliest in this evaluation, (V * K,) int64, over all ranks."""
        return all_sum(self.metrics.usage.counts).flatten()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``indices`` (B, h, w) with the batch's ``label`` and ``index``."""
        return {"indices": self.encode(batch["image"]), **passed_on(batch, "label", "index")}

    # Parts of a training step

    def uniform_numbers(self, x: Tensor, count: int, index: Tensor | None) -> Tensor:
        """Return (B, count) numbers in (0, 1), by seed, step and image where the ``index`` of the images is known."""
        if index is None:
            return torch.rand(len(x), count, device=x.device, dtype=torch.float64)
        step = torch.tensor(self.global_step, device=x.device)
        return uniform_by_sample(index, count, step_seed(self.seed, step)).view(len(x), count)

    def adversarial_loss(self, x: Tensor, codes: Tensor, batch_idx: int) -> tuple[Tensor | float, dict[str, Tensor]]:
        """Train the discriminator on what ``codes`` (B, P) decode to; return the weighted generator loss, and terms."""
        adversarial, latent, step = self.adversarial, self.latent, self.global_step
        if adversarial is None:
            return 0.0, {}
        if not adversarial.is_active(step):
            return adversarial.zero(), {}
        x_hat = latent.output(codes).float()
        terms = adversarial.train_discriminator(x, x_hat, self.trainer.optimizers[1], batch_idx, step)
        rec_loss = linearized(-latent.log_likelihood(x, x_hat).mean(), x_hat)
        dims = x[0].numel()  # the weight is bounded for losses that are means over an image's numbers, not sums
        g_loss, g_terms = adversarial.generator_loss(x_hat, rec_loss / dims, latent.decoder, step)
        return dims * g_loss, terms | g_terms

    def step_optimizers(self, codes: Tensor, mse: Tensor) -> None:
        """Step p and q once per ``accumulate`` batches, split codes, update sigma, and count the batch."""
        optimizer, *discriminator = self.trainer.optimizers
        self.optimizer_stepped = (self.global_step + 1) % self.accumulate == 0
        if self.splitter is not None:
            self.splitter.count(codes)
        if self.optimizer_stepped:
            if self.adversarial is not None:
                self.adversarial.step_with_generator(discriminator[0], self.global_step)
            step_and_zero(self, optimizer)
            if self.splitter is not None:
                self.splitter.split(self.quantizer, optimizer)
        self.latent.likelihood.update(all_sum(mse) / world_size())
        count_batch(self)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradients of p and those of q, after they were logged."""
        networks, tables, proposal = self.latent.parameter_groups()
        self.optimization.clip_gradients([*networks, *tables])
        self.optimization.clip_gradients(proposal)

    def configure_optimizers(self) -> Any:
        """One optimizer for p and q, which share no weight, with a rate for each, and a discriminator's."""
        settings = self.optimization
        lr, base_lr = settings.proposal_lr, settings.proposal_base_lr
        if lr is None and base_lr is None:
            lr, base_lr = self.lr, self.base_lr
        rate = configured_rate(self, lr, base_lr, self.default_lr, "proposal")
        networks, tables, proposal = self.latent.parameter_groups()
        groups = [
            {"params": networks},
            {"params": tables, "weight_decay": 0.0},
            {"params": proposal, "lr": rate, "name": "proposal"},
        ]
        optimizers = [settings.optimizer(self, groups, "joint")]
        return optimizers if self.adversarial is None else [*optimizers, self.adversarial.configure_optimizer(self)]

    # The log

    def log_training(self, loss: Tensor, terms: dict[str, Tensor], codes: Tensor) -> None:
        """Log a batch's loss and terms, and the use of all codes (B, P) since the last line of the log."""
        usage = self.metrics.train_usage
        usage.update(codes)
        self.log("train/loss", loss.detach(), prog_bar=True)
        if is_log_step(self.trainer, self.global_step + 1):  # Lightning would keep no other batch's terms either
            terms |= usage.compute()
            usage.reset()
            self.log("train/perplexity", terms.pop("perplexity"), prog_bar=True)
            if isinstance(self.latent.likelihood, Gaussian):
                terms["sigma"] = self.latent.likelihood.sigma.detach()
            if self.splitter is not None:
                terms["split_codes"] = self.splitter.total.float()
                self.splitter.total.zero_()
            self.log_dict({f"train/{name}": value for name, value in terms.items()})

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log the bounds of the likelihood, and how well codes reconstruct the images of a batch."""
        x, latent, counted = batch["image"], self.latent, self.metrics
        likelihood, value_range = latent.likelihood, self.value_range
        observed = latent.observe(x)
        log_q = latent.log_q(observed)
        num_samples = self.evaluation.nll_samples if stage == "val" else self.evaluation.test_nll_samples
        elbo, nll, chain = (bound.mean() for bound in latent.bounds(x, num_samples, dequantize=True))
        metrics = {
            "loss": nll,
            "nll": nll,
            "nll_elbo": elbo,
            "nll_chain": chain,
            "bits_per_dim": likelihood.bits_per_dim(nll, x[0].numel(), value_range),
            "bits_per_image": latent.positions * math.log2(self.quantizer.num_embeddings),
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
            if counted.frechet is not None and not prefix:
                counted.frechet.update(target, real=True)
                counted.frechet.update(image, real=False)
        self.log_means(stage, {"psnr": metrics.pop("psnr")}, len(x), prog_bar=True)
        self.log_means(stage, metrics, len(x))
        counted.usage.update(codes)
        counted.posterior_usage.update(posterior)
        counted.proposal.update(log_q)
        if counted.statistics is not None:
            counted.statistics.update(codes, batch["label"])

    def finish_evaluation(self, stage: str) -> None:
        """Log the statistics of the codes of the whole set, over all ranks."""
        counted = self.metrics
        metrics = counted.usage.compute() | counted.proposal.compute()
        metrics |= {f"posterior_{name}": value for name, value in counted.posterior_usage.compute().items()}
        if counted.statistics is not None:
            metrics |= counted.statistics.compute()
        if counted.frechet is not None:
            metrics[f"rfid_{counted.frechet.name}"] = counted.frechet.compute().float()
        for metric in (counted.usage, counted.posterior_usage, counted.proposal, counted.statistics, counted.frechet):
            if metric is not None:
                metric.reset()
        self.log_dict({f"{stage}/{name}": value for name, value in metrics.items()}, sync_dist=True)


class CategoricalMetrics(nn.Module):
    """Counts of the codes that a model draws in training and in evaluation."""

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


class CodeSplitter(nn.Module):
    """Split common codes over rare ones, as Linde, Buzo and Gray (1980) grow a codebook.

    After each ``LOOK`` * K draws, the commonest of the K codes is paired with the rarest, the next with the next, down
    to the median. Where the common one was drawn ``ratio`` (above 2, else halves would split again) times as often, the
    rare one becomes its copy, with its optimizer state, and q halves the probability of the common one between the two.
    With a uniform prior ln p(x) gains up to ln 2 per position: two codes now represent what one did.
    """

    counts: Tensor
    total: Tensor  # codes split since the last line of the log

    def __init__(self, num_codebooks: int, num_embeddings: int, ratio: float) -> None:
        super().__init__()
        if not ratio > 2:
            raise UserError(
                f"split_ratio must be above 2, got {ratio}: set --model.split_ratio=3, or null not to split"
            )
        self.ratio = ratio
        self.register_buffer("counts", torch.zeros(num_codebooks, num_embeddings, dtype=torch.int64))
        self.register_buffer("total", torch.zeros((), dtype=torch.int64))

    def count(self, codes: Tensor) -> None:
        """Count a batch's codes (B, P), of all ranks."""
        books, size = self.counts.shape
        offset = torch.arange(books, device=codes.device) * size
        drawn = torch.bincount((codes.view(-1, books) + offset).flatten(), minlength=books * size)
        self.counts += all_sum(drawn).view(books, size)

    @torch.no_grad()
    def split(self, code: CategoricalCode, optimizer: Any) -> None:
        """Split if it is time, right after the ``optimizer`` stepped: the same on all ranks."""
        books, size = self.counts.shape
        if self.counts[0].sum() < LOOK * size:
            return
        offset = torch.arange(books, device=self.counts.device)[:, None] * size
        order = self.counts.argsort(dim=1, stable=True)
        half = order.shape[1] // 2
        rare, common = order[:, :half], order.flip(1)[:, :half]
        splits = self.counts.gather(1, common) >= self.ratio * (self.counts.gather(1, rare) + 1)
        to, of = ((chosen + offset)[splits] for chosen in (rare, common))
        bias = code.logits.bias
        assert bias is not None
        for parameter in (code.codebook, code.logits.weight, bias):
            remembered = [v for v in optimizer.state.get(parameter, {}).values() if v.shape == parameter.shape]
            for value in (parameter, *remembered):
                rows = value.view(self.counts.numel(), -1)
                rows[to] = rows[of]
        bias[to] -= math.log(2)
        bias[of] -= math.log(2)
        self.total += len(to)
        self.counts.zero_()
