"""SGAN (Salimans et al. 2016, arXiv:1606.03498): a discriminator that also classifies, learning from few labels."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from vqlab.errors import UserError
from vqlab.losses.adversarial import ADVERSARIAL
from vqlab.losses.semi_supervised import feature_matching, supervised_loss, unsupervised_loss
from vqlab.metrics.images.diversity import EffectiveClasses, diversity
from vqlab.models.model import Model
from vqlab.nn.base import FeatureNet, Generator, check_players
from vqlab.nn.distributed import mean_over_ranks
from vqlab.nn.gan.conv import ConvFeatures, ConvGenerator
from vqlab.nn.gan.sgan_discriminator import SGANDiscriminator
from vqlab.nn.precision import like_weights
from vqlab.nn.value_range import ValueRange
from vqlab.serialization import from_config
from vqlab.training.batches import passed_on
from vqlab.training.checkpoint import save_init_args
from vqlab.training.finite import require_finite
from vqlab.training.learning_rate import adam, check_lr, discriminator_adam, keep_configured_lr
from vqlab.training.log_interval import is_log_step
from vqlab.training.manual import clip, collect, count_batch, refuse_unsound, step_and_zero
from vqlab.training.schedules import Schedule
from vqlab.validation import check_choice, check_clips, check_weight

DEFAULT_LR = 2e-4


class SGAN(Model):
    """A generator, and a discriminator that tells K classes of real images from each other and from generated ones.

    Discriminator: supervised loss on the labelled images + unlabelled_weight * (unsupervised loss on the unlabelled and
    the generated ones, each half, + the game of the adversarial head, where there is one). Generator: the other side of
    that game, or feature matching (Salimans et al. 2016, arXiv:1606.03498). The players take turns at each batch, the
    discriminator first; ``global_step`` counts batches. Labelled, unlabelled and generated images pass the
    discriminator in batches of their own, so batch norm never mixes them.

    Data with ``labels_per_class`` tell few labels; without it, one batch serves as labelled and as unlabelled.

    ``spectral_norm`` bounds each weight as a matrix (out, in * height * width) by 1, which does not make a convolution
    1-Lipschitz, because its patches overlap. The class head is left free: bounded logits cannot be sure of a class. On
    digits with few labels it cost 3 to 4 points of accuracy and gained nothing but the bound (README).

    Args:
        generator: Null takes a ``ConvGenerator``.
        discriminator: Null takes ``ConvFeatures``, without batch norm if ``spectral_norm``.
        head: ``kplus1``, K + 1 logits and an adversarial logit; ``logsumexp``, K logits and their log-sum-exp.
        objective: The generator's: ``non_saturating``, ``hinge`` or ``feature_matching``. A low value tells nothing of
            the images: it is relative to a discriminator that moves.
        unlabelled_weight: Weight of all but the supervised loss; 0 trains a classifier on the labelled images alone.
        conditional: Whether the noise is multiplied by an embedding of the class to draw, which the generator then has
            to make recognisable: the cross-entropy of the discriminator's classes is added to its loss.
        spectral_norm: Of the discriminator, as above (see :class:`~vqlab.nn.gan.sgan_discriminator.SGANDiscriminator`).
        lr: Absolute learning rate of both players; without ``lr`` and ``base_lr`` it is 2e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes. Give one of the two.
        disc_lr: Absolute learning rate of the discriminator; null takes the generator's.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay of both players.
        schedule: Learning-rate schedule of both players; null is constant.
        clip_g: Largest gradient norm of the generator; null does not clip.
        clip_d: Largest gradient norm of the discriminator.
        compile: Compile both networks with ``torch.compile``.
        num_classes: K; linked to the data.
        channels: Channels of the images; linked to the data.
        image_size: Height and width of the images; linked to the data.
        value_range: What the numbers of an image mean; linked to the data.

    Shape:
        images (B, channels, image_size, image_size); labels (B,) int64 in [0, K).

    Raises:
        UserError: If an argument is out of range, a network does not fit the images, or labels are missing.

    Example:
        >>> model = SGAN().eval()
        >>> tuple(model.sample(4).shape), tuple(model.classify(torch.randn(2, 1, 32, 32)).shape)
        ((4, 1, 32, 32), (2, 10))
    """

    modality = "image"

    def __init__(
        self,
        generator: Generator | None = None,
        discriminator: FeatureNet | None = None,
        head: Literal["kplus1", "logsumexp"] = "kplus1",
        objective: Literal["non_saturating", "hinge", "feature_matching"] = "non_saturating",
        unlabelled_weight: float = 1.0,
        conditional: bool = False,
        spectral_norm: bool = False,
        lr: float | None = None,
        base_lr: float | None = None,
        disc_lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 0.0,
        schedule: Schedule | None = None,
        clip_g: float | None = None,
        clip_d: float | None = None,
        compile: bool = False,
        num_classes: int = 10,
        channels: int = 1,
        image_size: int = 32,
        value_range: ValueRange | Literal["unit", "signed"] = "signed",
    ) -> None:
        super().__init__()
        save_init_args(self)
        self.automatic_optimization = False
        check_lr(lr, base_lr)
        check_lr(disc_lr, None, "disc_lr")
        check_choice("head", head, ("kplus1", "logsumexp"))
        check_choice("objective", objective, ("non_saturating", "hinge", "feature_matching"))
        check_weight("unlabelled_weight", unlabelled_weight, "set --model.unlabelled_weight=1, or 0 for labels alone")
        check_clips(clip_g=clip_g, clip_d=clip_d)
        if num_classes < 2:
            raise UserError(f"SGAN needs data with at least 2 classes, got {num_classes}: choose another --data")
        # What Health advises, where its usual advice is followed already.
        self.health_hints = {"mode_collapse": "lower --model.lr"} if objective == "feature_matching" else {}
        self.head, self.objective, self.unlabelled_weight = head, objective, unlabelled_weight
        self.lr, self.base_lr, self.disc_lr, self.betas = lr, base_lr, disc_lr, (betas[0], betas[1])
        self.weight_decay, self.schedule = weight_decay, from_config(schedule) or Schedule()
        self.clip_g, self.clip_d, self.compiled = clip_g, clip_d, compile
        self.num_classes, self.channels, self.image_size = num_classes, channels, image_size
        value_range = from_config(value_range)
        self.value_range = value_range if isinstance(value_range, ValueRange) else ValueRange(value_range)
        self.game = ADVERSARIAL["hinge" if objective == "hinge" else "non_saturating"]

        self.generator = from_config(generator) or ConvGenerator(out_channels=channels, image_size=image_size)
        self.label_embedding = nn.Embedding(num_classes, self.generator.latent_dim) if conditional else None
        net = from_config(discriminator) or ConvFeatures(
            channels, image_size, norm="none" if spectral_norm else "batch"
        )
        check_players(self.generator, net, channels, image_size)
        self.discriminator = SGANDiscriminator(net, num_classes, head, spectral_norm)
        self.confusion, self.classes_drawn = MulticlassConfusionMatrix(num_classes), EffectiveClasses(num_classes)

    # What a user calls

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the K classes, (B, K)."""
        return self.discriminator(x).logits[:, :-1]

    def classify(self, x: Tensor) -> Tensor:
        """Return the probabilities of the K classes of images (B, C, H, W), (B, K), given that they are real."""
        return self(x).softmax(1)

    @torch.no_grad()
    def sample(self, num: int, label: int | Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw images (num, C, H, W) in the value range.

        Args:
            num: How many.
            label: One for all, or (num,) int64; null draws from all classes.
            generator: Source of the random numbers; null is torch's own.

        Raises:
            UserError: If an argument is out of range, or a label is given to a model without labels.
        """
        if num < 1:
            raise UserError(f"num must be at least 1, got {num}: use --num 64")
        if label is not None and self.label_embedding is None:
            raise UserError("this SGAN draws no class that is asked for: train with --model.conditional=true")
        was_training = self.training
        self.eval()  # with batch norm's running statistics, also in the middle of a training
        images = self.generate(*self._noise(num, label, generator))
        self.train(was_training)
        return images

    def generate(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Return images (B, C, H, W) in the value range, from noise (B, latent_dim) and labels (B,) if conditional."""
        if self.label_embedding is not None:
            z = z * self.label_embedding(label)
        return self.value_range.encode((self.generator(z) + 1) / 2)

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch: the discriminator's turn, then the generator's."""
        labelled, labels, unlabelled = self._streams(batch, batch_idx)
        z, wanted = self._noise(len(unlabelled))
        optimizers: Any = self.trainer.optimizers

        fake = self.generate(z, wanted) if self.unlabelled_weight else None
        loss, terms = self._discriminator_loss(labelled, labels, unlabelled, fake)
        require_finite({"d_loss": loss, **terms}, batch_idx, self.global_step)
        collect(loss, self.discriminator.parameters())
        clip(self.discriminator.parameters(), self.clip_d)
        if fake is None:
            step_and_zero(self, optimizers[1])
        else:
            optimizers[1].step()  # the gradients stay until the generator steps, for their log
            g_loss, g_terms = self._generator_loss(fake, wanted, unlabelled)
            require_finite({"g_loss": g_loss}, batch_idx, self.global_step)
            collect(g_loss, self._generator_parameters())
            terms |= g_terms
            step_and_zero(self, optimizers[0])
        if is_log_step(self.trainer, self.global_step + 1):
            self.log("train/d_loss", loss.detach(), prog_bar=True)
            self.log_dict({f"train/{name}": value for name, value in terms.items()})
        count_batch(self)
        return loss.detach()

    def _streams(self, batch: dict[str, Tensor], batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return labelled images, their labels, and unlabelled images; the same images where all are labelled."""
        labelled = batch.get("labelled_image", batch["image"])
        labels = batch.get("labelled_label", batch["label"])
        if batch_idx == 0:
            self._check_labels(labels, "take data with classes, or tell few by --data.labels_per_class")
        return labelled, labels, batch["image"]

    def _discriminator_loss(
        self, labelled: Tensor, labels: Tensor, unlabelled: Tensor, fake: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the discriminator's loss and the terms of the log; without generated images the supervised alone."""
        told = self.discriminator(labelled)
        loss = supervised_loss(told.logits, labels, among_real=self.head == "logsumexp")
        right = (told.logits[:, :-1].argmax(1) == labels).float().mean()
        terms = {"d_labelled": loss.detach(), "acc": right}
        if fake is None:
            return loss, terms
        real = told if unlabelled is labelled else self.discriminator(unlabelled)
        made = self.discriminator(fake.detach())
        half = 0.5 if self.objective != "hinge" else 1  # the hinge loss has it already
        rest = half * self.game.discriminator(real.real_logits, made.real_logits)
        terms["d_adversarial"] = rest.detach()
        if self.head == "kplus1":  # else the log-sum-exp has played this very game
            unsupervised = unsupervised_loss(real.logits, made.logits)
            rest, terms["d_unsupervised"] = rest + unsupervised, unsupervised.detach()
        caught, passed = made.logits.argmax(1) == self.num_classes, real.logits.argmax(1) < self.num_classes
        terms |= {
            # The published loop's accuracy: of K + 1 classes, on real and on generated images together.
            "d_acc": ((told.logits.argmax(1) == labels).float().mean() + caught.float().mean()) / 2,
            "reals_passed": passed.float().mean(),
            "fakes_caught": caught.float().mean(),
            "p_real": real.real_logits.detach().sigmoid().mean(),
            "p_fake": made.real_logits.detach().sigmoid().mean(),
        }
        return loss + self.unlabelled_weight * rest, terms

    def _generator_loss(
        self, fake: Tensor, wanted: Tensor | None, unlabelled: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the generator's loss, against the discriminator as it is now, and the terms of the log."""
        made = self.discriminator(fake)
        if self.objective == "feature_matching":
            with torch.no_grad():
                real = self.discriminator(unlabelled).features
            loss = feature_matching(mean_over_ranks(real.mean(0)), mean_over_ranks(made.features.mean(0))[None])
        else:
            loss = self.game.generator(made.real_logits)
        terms = {"g_loss": loss.detach()}
        if wanted is not None:
            recognised = supervised_loss(made.logits, wanted, among_real=True)
            loss, terms["g_class"] = loss + recognised, recognised.detach()
        return loss, terms

    def _noise(
        self, num: int, label: int | Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return noise (num, latent_dim), and labels (num,) if conditional, on the model's device."""
        source = None if generator is None else generator.device
        z = torch.randn(num, self.generator.latent_dim, generator=generator, device=source or self.device)
        z = like_weights(z, self.generator)
        if self.label_embedding is None:
            return z, None
        if label is None:
            label = torch.randint(self.num_classes, (num,), generator=generator, device=source or self.device)
        else:
            label = torch.as_tensor(label)
            self._check_labels(label, "use --label 0")
        return z, label.to(self.device).expand(num)

    def _check_labels(self, labels: Tensor, mend: str) -> None:
        if labels.min() < 0 or labels.max() >= self.num_classes:
            got = f"{labels.min()} to {labels.max()}"
            raise UserError(f"labels must lie in 0 .. {self.num_classes - 1}, got {got}: {mend}")

    def _generator_parameters(self) -> list[nn.Parameter]:
        embedding = [] if self.label_embedding is None else self.label_embedding.parameters()
        return [*self.generator.parameters(), *embedding]

    def configure_optimizers(self) -> Any:
        """Adam for each player, the generator first."""
        settings: Any = {"lr": self.lr, "base_lr": self.base_lr, "default_lr": DEFAULT_LR, "betas": self.betas}
        settings |= {"weight_decay": self.weight_decay, "schedule": self.schedule}
        judges = discriminator_adam(self, self.discriminator.parameters(), self.disc_lr, **settings)
        return [adam(self, self._generator_parameters(), name="generator", **settings), judges]

    def setup(self, stage: str) -> None:
        """Check the Trainer's settings, compile."""
        if stage == "fit":
            refuse_unsound(self.trainer)
            if self.compiled:
                self.generator.compile()
                self.discriminator.compile()

    def on_train_start(self) -> None:
        """Resume with the learning rate that is configured now."""
        keep_configured_lr(self)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the generator's gradients, after they were logged."""
        clip(self._generator_parameters(), self.clip_g)

    # Evaluation

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``val/...``."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``test/...``."""
        self._evaluate(batch, batch_idx, "test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``probabilities`` (B, K) with the batch's ``index``."""
        return {"probabilities": self.classify(batch["image"]), **passed_on(batch, "index")}

    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``real`` images and ``sample`` in [0, 1], of the same noise each time, by class if conditional."""
        count = len(batch["image"])
        label = None if self.label_embedding is None else torch.arange(count) % self.num_classes
        drawn = self.sample(count, label, torch.Generator().manual_seed(0))
        return {"real": self.value_range.decode(batch["image"]), "sample": self.value_range.decode(drawn)}

    def confusion_counts(self) -> Tensor:
        """Return how often class i was taken for class j in this evaluation, (K, K), over all ranks."""
        return self.confusion.compute()

    def _evaluate(self, batch: dict[str, Tensor], batch_idx: int, stage: str) -> None:
        x, labels = batch["image"], batch["label"]
        if batch_idx == 0:
            self._check_labels(labels, "take data with classes")
        judged = self.discriminator(x)
        classes = judged.logits[:, :-1].float()
        if batch_idx == 0:  # a new evaluation
            self.confusion.reset()
        self.confusion.update(classes.argmax(1), labels)
        figures = {
            "loss": F.cross_entropy(classes, labels),
            "acc": (classes.argmax(1) == labels).float().mean(),
            "reals_passed": (judged.logits.argmax(1) < self.num_classes).float().mean(),
        }
        if self.unlabelled_weight:
            drawn = self.sample(len(x), generator=torch.Generator().manual_seed(batch_idx))
            made = self.discriminator(drawn).logits
            figures["fakes_caught"] = (made.argmax(1) == self.num_classes).float().mean()
            figures["diversity"] = diversity(drawn, x)
            self.classes_drawn.update(made[:, :-1].argmax(1))
            self.log(f"{stage}/classes_drawn", self.classes_drawn, on_epoch=True, batch_size=len(x))
        for name, value in figures.items():
            shown = name in ("acc", "loss")
            self.log(f"{stage}/{name}", value, prog_bar=shown, on_epoch=True, sync_dist=True, batch_size=len(x))
