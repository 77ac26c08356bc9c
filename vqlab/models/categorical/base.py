"""A generative model with categorical codes: p(x, h) = p(h) p(x | h), and a proposal q(h | x) for its posterior.

Shapes: B images of a batch, P = h * w * V positions of a code (V variables at each place of the encoder's map), K
categories, S draws. Inside, codes are flat, (B, P) or (B, S, P); outside they are maps, (B, h, w), or (B, h, w, V).
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.losses.adversarial import ADVERSARIAL
from vqlab.losses.perceptual import Perceptual
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.models.adversarial import Adversary, build_discriminator
from vqlab.models.categorical.code_splitting import CodeSplitter
from vqlab.models.categorical.densities import Densities
from vqlab.models.categorical.metrics import Figures
from vqlab.models.model import Model
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.nn.base import Decoder, Encoder, check_autoencoder
from vqlab.nn.categorical import CategoricalCode, build_prior
from vqlab.nn.distributed import all_sum, world_size
from vqlab.nn.gan.patchgan import Discriminator
from vqlab.nn.likelihood import Gaussian, Likelihood
from vqlab.nn.transformer import Transformer
from vqlab.nn.value_range import ValueRange
from vqlab.quantizers.sampling import step_seed, uniform_by_sample
from vqlab.serialization import from_config
from vqlab.training.batches import passed_on
from vqlab.training.checkpoint import save_init_args
from vqlab.training.finite import require_finite
from vqlab.training.learning_rate import adam, check_lr, configured_rate, keep_configured_lr
from vqlab.training.manual import clip, count_batch, refuse_unsound, step_and_zero
from vqlab.training.schedules import Schedule
from vqlab.validation import check_counts, check_positive, check_weight

DEFAULT_LR = 3e-4


class LossOutput(NamedTuple):
    """What a batch teaches.

    Attributes:
        loss: Scalar in nats per image, with gradients to all parts.
        mse: Mean squared error of the decoded codes (scalar), in the units of what is modelled.
        codes: Codes (B, P) of the batch, to be counted.
        terms: Scalars for the log.
    """

    loss: Tensor
    mse: Tensor
    codes: Tensor
    terms: dict[str, Tensor]


class CategoricalModel(Densities, Adversary, Model, ABC):
    """What :class:`~vqlab.models.categorical.jsa.JSA` and ``DiscreteVAE`` share, all but learning.

    Args:
        encoder: Null takes a ``ConvEncoder`` with its defaults.
        decoder: Null takes a ``ConvDecoder`` with its defaults. Its ``in_channels`` is the dimension of the code's
            embedding.
        num_embeddings: Categories, K.
        num_latents: Categorical variables at each place of the map, V.
        likelihood: p(x | h); null takes a ``Gaussian`` whose sigma is the optimal one.
        prior: p(h): ``uniform``; ``factorized``, a learned categorical per position; or a ``Transformer`` over the P
            positions, learned along.
        perceptual: Null takes LPIPS on VGG features, whose weights are fetched once; not built at weight 0.
        perceptual_weight: Nats per unit of LPIPS, taken off ln p(x | h) wherever p learns or draws its codes. Bounds of
            the likelihood leave it out, so that they compare with those of other models.
        discriminator: Null takes a ``PatchGAN`` with its defaults; not built at weight 0.
        disc_weight: Pull of the discriminator (hinge) at the decoded codes, as a share of the likelihood's at the
            decoder's last layer; a ``Gaussian``'s alone.
        disc_start: Batches before it learns and is felt.
        disc_lr: Absolute learning rate of the discriminator; null takes that of p.
        split_ratio: With a uniform prior, a code drawn so many times as often as a rare one gives it half of its
            images, see ``CodeSplitter``; null never splits. Other priors say by
            themselves that codes are rare.
        smoothing: Share of the uniform distribution in q, which bounds the weight that a draw can get.
        lr: Absolute learning rate; without ``lr`` and ``base_lr`` it is 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulate. Give one of the two.
        proposal_lr: Absolute learning rate of q; without this and ``proposal_base_lr``, q has that of p.
        proposal_base_lr: Rate per image of q.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay of the networks; none on embeddings, prior and sigma.
        schedule: Learning-rate schedule; null is constant. It counts batches, as ``global_step`` does.
        clip: Largest gradient norm of p, and of q; null does not clip.
        accumulate: Batches per step of the optimizer.
        nll_samples: Draws per image behind ``val/nll``.
        test_nll_samples: Draws per image behind ``test/nll``.
        decode_chunk: Codes that are decoded at once, which bounds the memory.
        seed: Of the draws, which depend on it, the step and the image alone.
        frechet: As in ``VQVAE``.
        channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        num_classes: Labels, for statistics of the codes by class; linked to the data.
        value_range: What the numbers of an image mean; linked to the data.

    Shape:
        images (B, channels, image_size, image_size) in ``value_range``; codes (B, h, w) int64 in [0, K), with
        ``num_latents`` above 1 (B, h, w, V).

    Raises:
        UserError: If both rates are given, a number is out of range, or the parts do not fit each other.
    """

    modality = "image"
    health_hints: ClassVar = dict.fromkeys(  # by Health
        ("codebook_collapse", "codebook_slow_death"), "set --model.split_ratio=3, or lower --model.proposal_lr"
    )

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        num_embeddings: int = 1024,
        num_latents: int = 1,
        likelihood: Likelihood | None = None,
        prior: Transformer | Literal["uniform", "factorized"] = "uniform",
        perceptual: Perceptual | None = None,
        perceptual_weight: float = 0.0,
        discriminator: Discriminator | None = None,
        disc_weight: float = 0.0,
        disc_start: int = 5000,
        disc_lr: float | None = None,
        split_ratio: float | None = 3.0,
        smoothing: float = 0.0,
        lr: float | None = None,
        base_lr: float | None = None,
        proposal_lr: float | None = None,
        proposal_base_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        schedule: Schedule | None = None,
        clip: float | None = None,
        accumulate: int = 1,
        nll_samples: int = 64,
        test_nll_samples: int = 1000,
        decode_chunk: int = 512,
        seed: int = 0,
        frechet: FrechetDistance | None = None,
        channels: int = 3,
        image_size: int = 32,
        num_classes: int | None = None,
        value_range: ValueRange | Literal["unit", "signed"] = "signed",
    ) -> None:
        super().__init__()
        save_init_args(self)
        self.automatic_optimization = False
        check_lr(lr, base_lr)
        check_lr(proposal_lr, proposal_base_lr, "proposal_lr")
        check_lr(disc_lr, None, "disc_lr")
        for name, weight in (("perceptual_weight", perceptual_weight), ("disc_weight", disc_weight)):
            check_weight(name, weight, f"set --model.{name}=0 to leave it out")
        counts = {"accumulate": accumulate, "nll_samples": nll_samples, "test_nll_samples": test_nll_samples}
        check_counts(**counts, decode_chunk=decode_chunk)
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing must lie in [0, 1), got {smoothing}: set --model.smoothing=0.001")
        if clip is not None:
            check_positive("clip", clip, "set --model.clip=100, or null not to clip")
        self.encoder: Encoder = from_config(encoder) or ConvEncoder(in_channels=channels)
        self.decoder: Decoder = from_config(decoder) or ConvDecoder(out_channels=channels)
        self.code_map = check_autoencoder(self.encoder, self.decoder, channels, image_size)
        # Named as in the other models, for those who look at a codebook: health, predict, the prior of a second stage.
        self.quantizer = CategoricalCode(
            self.encoder.out_channels, num_embeddings, self.decoder.in_channels, num_latents
        )
        self.positions = math.prod(self.code_map) * num_latents
        self.likelihood: Likelihood = from_config(likelihood) or Gaussian()
        self.prior = build_prior(from_config(prior), self.positions, num_embeddings, num_latents)
        self.perceptual: Perceptual | None = None
        if perceptual_weight:
            self.perceptual = from_config(perceptual) or Perceptual()
            self.perceptual.check_size(image_size, image_size)
        self.discriminator: Discriminator | None = None
        if disc_weight:
            if not isinstance(self.likelihood, Gaussian):
                raise UserError("a discriminator tells any grey from black and white: set --model.disc_weight=0")
            if accumulate > 1:
                raise UserError(f"a discriminator steps at each batch: set --model.accumulate=1, not {accumulate}")
            self.discriminator = build_discriminator(discriminator, self.decoder, True, channels, image_size)
        self.players, self.lecam, self.disc_start, self.disc_lr = ADVERSARIAL["hinge"], None, disc_start, disc_lr
        self.perceptual_weight, self.disc_weight = perceptual_weight, disc_weight
        self.splitter: CodeSplitter | None = None
        if split_ratio is not None and prior == "uniform":
            self.splitter = CodeSplitter(num_latents, num_embeddings, split_ratio)
        self.smoothing = smoothing
        self.lr, self.base_lr, self.proposal_lr, self.proposal_base_lr = lr, base_lr, proposal_lr, proposal_base_lr
        self.betas, self.weight_decay = (betas[0], betas[1]), weight_decay
        self.schedule: Schedule = from_config(schedule) or Schedule()
        self.clip, self.accumulate, self.optimizer_stepped = clip, accumulate, False
        self.nll_samples, self.test_nll_samples = nll_samples, test_nll_samples
        self.decode_chunk, self.seed = decode_chunk, seed
        self.channels, self.image_size = channels, image_size
        value_range = from_config(value_range)
        self.value_range = ValueRange(value_range) if isinstance(value_range, str) else value_range
        frechet = from_config(frechet)
        if frechet is not None:
            frechet.check_shape(channels, image_size, image_size)
        self.figures = Figures(num_embeddings, num_latents, self.positions, num_classes or 0, frechet)

    @abstractmethod
    def learn(self, x: Tensor, log_q: Tensor, index: Tensor | None) -> LossOutput:
        """Return what a batch teaches.

        Args:
            x: What is modelled (B, C, H, W).
            log_q: Log-probabilities (B, P, K) of q.
            index: Positions (B,) of the images in the data set, if known.
        """

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch for p and q."""
        x = self.observe(batch["image"])
        lesson = self.learn(x, self.log_q(x), batch.get("index"))
        require_finite({"loss": lesson.loss, "rec_loss": lesson.mse}, batch_idx, self.global_step)
        pull, d_terms = self._contest(x, lesson.codes, batch_idx)
        self.manual_backward((lesson.loss + pull + self.untouched()) / self.accumulate)
        terms = {"rec_loss": lesson.mse, **lesson.terms, **d_terms}
        if isinstance(self.likelihood, Gaussian):
            terms["sigma"] = self.likelihood.sigma.detach()
        self.figures.log_training(self, lesson.loss, terms, lesson.codes)
        self.optimizer_stepped = (self.global_step + 1) % self.accumulate == 0
        if self.splitter is not None:
            self.splitter.count(lesson.codes)
        if self.optimizer_stepped:
            step_and_zero(self, self.trainer.optimizers[0])
            if self.splitter is not None:
                self.splitter.split(self.quantizer, self.trainer.optimizers[0])
        self.likelihood.update(all_sum(lesson.mse) / world_size())
        count_batch(self)
        return lesson.loss

    def _contest(self, x: Tensor, codes: Tensor, batch_idx: int) -> tuple[Tensor | float, dict[str, Tensor]]:
        """Return a loss whose gradient is the discriminator's pull at what codes (B, P) decode to, and terms."""
        if not self.plays:
            return 0.0, {}
        x_hat = self.output(codes).float()
        fake = x_hat.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(-self.log_likelihood(x, fake).mean(), fake)
        dims = x[0].numel()  # the weight is bounded for losses that are means over an image's numbers, not sums
        pull, terms = self.contest(x, x_hat, fake, gradient / dims, batch_idx)
        return 0.0 if pull is None else dims * (x_hat * pull).sum(), terms

    def uniform(self, x: Tensor, count: int, index: Tensor | None) -> Tensor:
        """Return (B, count) numbers in (0, 1), by seed, step and image where the ``index`` of the images is known."""
        if index is None:
            return torch.rand(len(x), count, device=x.device, dtype=torch.float64)
        step = torch.tensor(self.global_step, device=x.device)
        return uniform_by_sample(index, count, step_seed(self.seed, step)).view(len(x), count)

    def configure_optimizers(self) -> Any:
        """One Adam for p and q, which share no weight and may have rates of their own, and one for a discriminator."""
        given = self.proposal_lr is not None or self.proposal_base_lr is not None
        own = (self.proposal_lr, self.proposal_base_lr) if given else (self.lr, self.base_lr)
        rate = configured_rate(self, *own, DEFAULT_LR, "proposal")
        joint, tables, proposal = self._players()
        groups = [
            {"params": joint},
            {"params": tables, "weight_decay": 0.0},
            {"params": proposal, "lr": rate, "name": "proposal"},
        ]
        settings: Any = {
            "lr": self.lr,
            "base_lr": self.base_lr,
            "default_lr": DEFAULT_LR,
            "betas": self.betas,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule,
        }
        players = [adam(self, groups, name="joint", **settings)]
        return players if self.discriminator is None else [*players, self.discriminator_optimizer(**settings)]

    def prepare_data(self) -> None:
        """Fetch what the distances need, once per machine, before anything of the run is written."""
        for part in (self.perceptual, None if self.trainer.predicting else self.figures.frechet):
            if part is not None:
                part.load()

    def on_train_start(self) -> None:
        """Resume with the learning rate that is configured now."""
        keep_configured_lr(self)

    def setup(self, stage: str) -> None:
        """Check the Trainer's settings."""
        if stage == "fit":
            refuse_unsound(self.trainer)
            self.warn_if_idle()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradients of p and those of q, after they were logged."""
        joint, tables, proposal = self._players()
        clip([*joint, *tables], self.clip)
        clip(proposal, self.clip)

    def _players(self) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters of p that are networks', those that are not, and those of q."""
        tables = [self.quantizer.codebook, *self.likelihood.parameters(), *self.prior.parameters()]
        proposal = [*self.encoder.parameters(), *self.quantizer.logits.parameters()]
        return list(self.decoder.parameters()), tables, proposal

    # Evaluation

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``val/...``."""
        self.figures.log_evaluation(self, batch, "val", self.nll_samples)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``test/...``."""
        self.figures.log_evaluation(self, batch, "test", self.test_nll_samples)

    def on_validation_epoch_end(self) -> None:
        """Log the statistics of the codes of the whole validation set."""
        self.figures.log_whole_set(self, "val")

    def on_test_epoch_end(self) -> None:
        """Log the statistics of the codes of the whole test set."""
        self.figures.log_whole_set(self, "test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``indices`` (B, h, w) with the batch's ``label`` and ``index``."""
        return {"indices": self.encode(batch["image"]), **passed_on(batch, "label", "index")}

    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return images (B, C, H, W) in [0, 1] to look at: ``input``, ``reconstruction`` and ``sample``."""
        x = batch["image"]
        sample = self.sample(len(x), generator=torch.Generator().manual_seed(0))  # looking changes no training
        images = {
            "input": self.likelihood.image(self.observe(x), self.value_range),
            "reconstruction": self.reconstruct(x),
            "sample": sample,
        }
        return {name: self.value_range.decode(image) for name, image in images.items()}

    def code_counts(self) -> Tensor:
        """Return how often each code was used in this evaluation, (V * K,) int64, over all ranks."""
        return all_sum(self.figures.usage.counts).flatten()
