"""SGAN (Salimans et al. 2016, arXiv:1606.03498): semi-supervised classification by a GAN's discriminator."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.classification import MulticlassConfusionMatrix

from vqlab.errors import UserError
from vqlab.losses.adversarial import (
    ADVERSARIAL,
    consistency_loss,
    entropy_loss,
    feature_matching,
    pull_away,
    supervised_loss,
    unsupervised_loss,
)
from vqlab.metrics.images.quality import EffectiveClasses, diversity
from vqlab.models.model import Model, evaluating
from vqlab.nn import ConvFeatures, ConvGenerator, ImageFormat, SGANDiscriminator
from vqlab.nn.base import FeatureNet, Generator, check_gan
from vqlab.nn.distributed import mean_over_ranks
from vqlab.nn.gan.discriminators import DiscriminatorOutput
from vqlab.nn.precision import like_weights
from vqlab.nn.weight_norm import init_from_data
from vqlab.training import GANOptimization
from vqlab.training.batches import check_labels, passed_on
from vqlab.training.steps import clip, collect, count_batch, require_finite, step_and_zero
from vqlab.validation import NonNegative, NonNegativeInt, Positive


class SGAN(Model):
    """A generator, and a discriminator that separates K classes of real images, and real images from generated ones.

    Discriminator: supervised loss on the labelled images + unlabelled_weight * (unsupervised loss on the unlabelled and
    the generated images, each half, + the loss of the adversarial head, if there is one) + entropy_weight * conditional
    entropy + consistency_weight * consistency. Generator: the adversarial head's generator loss, or feature matching
    (paper, section 3.1), + pull_away_weight * pull-away term. The networks alternate at each batch, the discriminator
    first. If the data set no ``labels_per_class``, one batch is both the labelled and the unlabelled one.

    Args:
        generator: Default: a ``ConvGenerator``.
        discriminator: Default: ``ConvFeatures``, without batch norm if ``spectral_norm``.
        head: ``kplus1``, K + 1 logits and an adversarial logit; ``logsumexp``, K logits and their log-sum-exp.
        objective: Generator loss: ``non_saturating``, ``hinge`` or ``feature_matching``.
        unlabelled_weight: Weight of all but the supervised loss; 0 trains a classifier only on the labelled images.
        conditional: Multiply the noise by a class embedding, and add that class's cross-entropy to the generator loss.
        spectral_norm: Divide the discriminator's weights, except the class head's, by their spectral norm.
        weight_norm: Normalize the discriminator's weights per unit; the first batch sets their scales (paper's code).
        entropy_weight: Weight of the entropy of p(y | x) of the unlabelled images (Dai et al. 2017, arXiv:1705.09783).
        consistency_weight: Weight of the cross-entropy of p(y | x) of the unlabelled images with that of the network
            without noise and dropout (Bachman et al. 2014, arXiv:1412.4864).
        consistency_temperature: Divisor of the latter's logits; below 1 it is sharper (UDA, arXiv:1904.12848).
        self_training_start: Step at which these two terms start; too early, they make wrong classes confident.
        pull_away_weight: Weight of the pull-away term of generated images' features (the same paper).
        lr: Absolute learning rate of both networks. Default without ``base_lr``: 2e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes. Give one of the two.
        optimization: Optimizer settings.
        compile: Compile both networks with ``torch.compile``.
        images: Format of the images, with ``num_classes``, K; the command line takes it from the data.

    Example:
        >>> model = SGAN().eval()
        >>> tuple(model.sample(4).shape), tuple(model.classify(torch.randn(2, 1, 32, 32)).shape)
        ((4, 1, 32, 32), (2, 10))
    """

    modality = "image"
    default_lr = 2e-4

    def __init__(
        self,
        generator: Generator | None = None,
        discriminator: FeatureNet | None = None,
        head: Literal["kplus1", "logsumexp"] = "kplus1",
        objective: Literal["non_saturating", "hinge", "feature_matching"] = "non_saturating",
        unlabelled_weight: NonNegative = 1.0,
        conditional: bool = False,
        spectral_norm: bool = False,
        weight_norm: bool = False,
        entropy_weight: NonNegative = 0.0,
        consistency_weight: NonNegative = 0.0,
        consistency_temperature: Positive = 1.0,
        self_training_start: NonNegativeInt = 0,
        pull_away_weight: NonNegative = 0.0,
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: GANOptimization = GANOptimization(),
        compile: bool = False,
        images: ImageFormat = ImageFormat(channels=1, num_classes=10),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        num_classes = images.require_classes()
        # The usual hint is to set feature matching.
        self.health_hints = {"mode_collapse": "lower --model.lr"} if objective == "feature_matching" else {}
        self.head, self.objective, self.unlabelled_weight = head, objective, unlabelled_weight
        self.entropy_weight, self.pull_away_weight = entropy_weight, pull_away_weight
        self.consistency_weight, self.consistency_temperature = consistency_weight, consistency_temperature
        self.self_training_start = self_training_start
        self.optimization, self.compiled, self.num_classes = optimization, compile, num_classes
        self.images, self.value_range = images, images.value_range
        self.adversarial_losses = ADVERSARIAL["hinge" if objective == "hinge" else "non_saturating"]

        self.generator: Generator = generator or ConvGenerator(out_channels=images.channels, image_size=images.size)
        self.label_embedding = nn.Embedding(num_classes, self.generator.latent_dim) if conditional else None
        norm: Literal["none", "batch"] = "none" if spectral_norm or weight_norm else "batch"
        net = discriminator or ConvFeatures(images.channels, images.size, norm=norm)
        check_gan(self.generator, net, images.channels, images.size)
        self.discriminator = SGANDiscriminator(net, num_classes, head, spectral_norm, weight_norm)
        # Batch norm would mix the statistics of real and generated images.
        self.batched = not any(isinstance(part, _BatchNorm) for part in net.modules())
        self.weight_norm = weight_norm
        self._batches_seen = 0
        self.confusion, self.classes_drawn = MulticlassConfusionMatrix(num_classes), EffectiveClasses(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the K classes, (B, K)."""
        return self.discriminator(x).logits[:, :-1]

    def classify(self, x: Tensor) -> Tensor:
        """Return the probabilities of the K classes of images (B, C, H, W), (B, K), given that they are real."""
        return self(x).softmax(1)

    @torch.no_grad()
    def sample(self, num: int, label: int | Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw images (num, C, H, W) in the value range, of one ``label`` or (num,) labels, by default of all."""
        if label is not None and self.label_embedding is None:
            raise UserError("label needs a conditional SGAN: train with --model.conditional=true")
        with evaluating(self):
            return self.generate(*self._noise(num, label, generator))

    def generate(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Return images (B, C, H, W) in the value range, from noise (B, latent_dim) and labels (B,) if conditional."""
        if self.label_embedding is not None:
            z = z * self.label_embedding(label)
        return self.value_range.encode((self.generator(z) + 1) / 2)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Update the discriminator, then the generator."""
        labelled, labels = (batch.get(f"labelled_{name}", batch[name]) for name in ("image", "label"))
        unlabelled, optimizers = batch["image"], self.trainer.optimizers
        if batch_idx == 0:
            check_labels(labels, self.num_classes, "take data with classes, or set --data.labels_per_class")
        if self.weight_norm and self.global_step == 0:
            init_from_data(self.discriminator, unlabelled)
        z, target = self._noise(len(unlabelled))

        fake = self.generate(z, target) if self.unlabelled_weight else None
        loss, terms = self._discriminator_loss(labelled, labels, unlabelled, fake)
        require_finite({"d_loss": loss, **terms}, batch_idx, self.global_step)
        collect(loss, self._discriminator_parameters())
        clip(self._discriminator_parameters(), self.optimization.disc_clip)
        if fake is None:
            step_and_zero(self, optimizers[1])
        else:
            optimizers[1].step()  # the gradients are kept for the log until the generator steps
            g_loss, g_terms = self._generator_loss(fake, target, unlabelled)
            require_finite({"g_loss": g_loss}, batch_idx, self.global_step)
            collect(g_loss, self._generator_parameters())
            step_and_zero(self, optimizers[0])
            terms |= g_terms
        self.log_terms(terms | {"d_loss": loss}, prog_bar="d_loss")
        count_batch(self)
        return loss.detach()

    def _discriminator_loss(
        self, labelled: Tensor, labels: Tensor, unlabelled: Tensor, fake: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the discriminator's loss, only the supervised one if ``fake`` is None, and terms for the log."""
        batches = [labelled] if fake is None or unlabelled is labelled else [labelled, unlabelled]
        if fake is not None:
            batches.append(fake.detach())
        labelled_out, *others = self._discriminate(*batches)
        loss = supervised_loss(labelled_out.logits, labels, among_real=self.head == "logsumexp")
        terms = {"d_labelled": loss.detach()}
        terms["acc"] = (labelled_out.logits[:, :-1].argmax(1) == labels).float().mean()
        if fake is None:
            return loss, terms
        real, fake_out = [labelled_out, *others][-2:]  # the labelled images are the unlabelled ones if all have labels
        half = 0.5 if self.objective != "hinge" else 1  # the hinge loss contains it
        rest = half * self.adversarial_losses.discriminator(real.real_logits, fake_out.real_logits)
        terms["d_adversarial"] = rest.detach()
        if self.head == "kplus1":  # with logsumexp the adversarial loss is the unsupervised one
            unsupervised = unsupervised_loss(real.logits, fake_out.logits)
            rest, terms["d_unsupervised"] = rest + unsupervised, unsupervised.detach()
        loss = loss + self.unlabelled_weight * rest
        started = self.global_step >= self.self_training_start
        if self.entropy_weight and started:
            terms["d_entropy"] = (entropy := entropy_loss(real.logits)).detach()
            loss = loss + self.entropy_weight * entropy
        if self.consistency_weight and started:
            with evaluating(self.discriminator), torch.no_grad():
                target = self.discriminator(unlabelled).logits
            consistency = consistency_loss(real.logits, target, self.consistency_temperature)
            terms["d_consistency"] = consistency.detach()
            loss = loss + self.consistency_weight * consistency
        fakes_caught = (fake_out.logits.argmax(1) == self.num_classes).float().mean()
        terms |= {
            # Over K + 1 classes and over real and generated images, as in the published training loop.
            "d_acc": ((labelled_out.logits.argmax(1) == labels).float().mean() + fakes_caught) / 2,
            "reals_passed": (real.logits.argmax(1) < self.num_classes).float().mean(),
            "fakes_caught": fakes_caught,
            "p_real": real.real_logits.detach().sigmoid().mean(),
            "p_fake": fake_out.real_logits.detach().sigmoid().mean(),
        }
        return loss, terms

    def _discriminate(self, *images: Tensor) -> list[DiscriminatorOutput]:
        """Return the outputs for several batches, from one pass unless the network has batch norm."""
        if not self.batched:
            return [self.discriminator(x) for x in images]
        whole = self.discriminator(torch.cat(images))
        parts = (output.split([len(x) for x in images]) for output in whole)
        return [DiscriminatorOutput(*part) for part in zip(*parts, strict=True)]

    def _generator_loss(
        self, fake: Tensor, target: Tensor | None, unlabelled: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the generator's loss against the updated discriminator, and terms for the log."""
        fake_out = self.discriminator(fake)
        if self.objective == "feature_matching":
            with torch.no_grad():
                real = self.discriminator(unlabelled).features
            loss = feature_matching(mean_over_ranks(real.mean(0)), mean_over_ranks(fake_out.features.mean(0))[None])
        else:
            loss = self.adversarial_losses.generator(fake_out.real_logits)
        terms = {"g_loss": loss.detach()}
        if self.pull_away_weight:
            terms["g_pull_away"] = (spread := pull_away(fake_out.features)).detach()
            loss = loss + self.pull_away_weight * spread
        if target is not None:
            class_loss = supervised_loss(fake_out.logits, target, among_real=True)
            loss, terms["g_class"] = loss + class_loss, class_loss.detach()
        return loss, terms

    def _noise(
        self, num: int, label: int | Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return noise (num, latent_dim), and labels (num,) if conditional, on the model's device."""
        device = self.device if generator is None else generator.device
        z = torch.randn(num, self.generator.latent_dim, generator=generator, device=device)
        z = like_weights(z, self.generator)
        if self.label_embedding is None:
            return z, None
        if label is None:
            label = torch.randint(self.num_classes, (num,), generator=generator, device=device)
        label = torch.as_tensor(label)
        check_labels(label, self.num_classes, "use --label 0")
        return z, label.to(self.device).expand(num)

    def _generator_parameters(self) -> list[nn.Parameter]:
        embedding = [] if self.label_embedding is None else self.label_embedding.parameters()
        return [*self.generator.parameters(), *embedding]

    def _discriminator_parameters(self) -> list[nn.Parameter]:
        return [weight for weight in self.discriminator.parameters() if weight.requires_grad]

    def configure_optimizers(self) -> Any:
        settings = self.optimization
        return [
            settings.optimizer(self, self._generator_parameters(), "generator"),
            settings.optimizer(self, self._discriminator_parameters(), "discriminator", lr=settings.disc_lr),
        ]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        self.to(memory_format=torch.channels_last)  # a quarter faster, in bfloat16 almost twice as fast
        if self.compiled:
            self.generator.compile()
            self.discriminator.compile()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        clip(self._generator_parameters(), self.optimization.clip)

    def start_evaluation(self) -> None:
        self.confusion.reset()
        self._batches_seen = 0

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log loss and accuracy, and how the discriminator classifies real and generated images."""
        x, labels = batch["image"], batch["label"]
        if self._batches_seen == 0:
            check_labels(labels, self.num_classes, "take data with classes")
        logits = self.discriminator(x).logits
        classes = logits[:, :-1].float()
        self.confusion.update(classes.argmax(1), labels)
        main = {"loss": F.cross_entropy(classes, labels), "acc": (classes.argmax(1) == labels).float().mean()}
        metrics = {"reals_passed": (logits.argmax(1) < self.num_classes).float().mean()}
        if self.unlabelled_weight:
            fake = self.sample(len(x), generator=torch.Generator().manual_seed(self._batches_seen))
            fake_logits = self.discriminator(fake).logits
            metrics["fakes_caught"] = (fake_logits.argmax(1) == self.num_classes).float().mean()
            metrics["diversity"] = diversity(fake, x)
            self.classes_drawn.update(fake_logits[:, :-1].argmax(1))
            self.log(f"{stage}/classes_drawn", self.classes_drawn, on_epoch=True, batch_size=len(x))
        self.log_means(stage, main, len(x), prog_bar=True)
        self.log_means(stage, metrics, len(x))
        self._batches_seen += 1

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``probabilities`` (B, K) with the batch's ``index``."""
        return {"probabilities": self.classify(batch["image"]), **passed_on(batch, "index")}

    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``real`` images and ``sample`` in [0, 1], always of the same noise, by class if conditional."""
        count = len(batch["image"])
        label = None if self.label_embedding is None else torch.arange(count) % self.num_classes
        drawn = self.sample(count, label, torch.Generator().manual_seed(0))
        return {"real": self.value_range.decode(batch["image"]), "sample": self.value_range.decode(drawn)}

    def confusion_counts(self) -> Tensor:
        """Return how often class i was predicted as class j in this evaluation, (K, K), summed over ranks."""
        return self.confusion.compute()
