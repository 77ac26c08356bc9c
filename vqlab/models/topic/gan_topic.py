"""Adversarial topic models: ATM (Wang et al. 2019, arXiv:1811.00265), BAT (Wang et al. 2020), and improvements."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.losses import TopicContrast, gradient_penalty
from vqlab.losses.topics import neighbour_loss, topic_divergence, usage_entropy
from vqlab.metrics import TopicClusters
from vqlab.metrics.topics.words import TopicTable, top_word_ids, topic_figures
from vqlab.models.model import Model
from vqlab.models.topic.topics import TOP, nmf_topics, topic_table
from vqlab.nn.topic import GENERATORS, Bags, Documents, TopicCritic, TopicEncoder, dense, draw_proportions
from vqlab.training import GANOptimization
from vqlab.training.batches import passed_on
from vqlab.training.steps import clip, collect, count_batch, require_finite, step_and_zero
from vqlab.validation import Count, NonNegative, NonNegativeInt, Positive, Probability


class GANTopicModel(Model):
    """A generator of documents from topic proportions, an encoder of documents to proportions, and a critic of pairs.

    The critic maximises ``E D(real) - E D(generated)``, generator and encoder minimise it every ``n_critic`` batches.
    A real pair is a document, as a distribution over words, and the encoder's proportions; a generated pair is
    proportions from a Dirichlet and the generator's document (Wang et al. 2020, "Neural Topic Modeling with
    Bidirectional Adversarial Training"). A topic is the generator's output for that topic alone. Extensions of the
    papers, on by default: a ``mixture`` of topics, as in LDA; initial topics by NMF; and the cycle term
    ``-E sum_k theta_k sum_v x_v log topic_kv`` of the inferred proportions (as in ALICE, Li et al. 2017,
    arXiv:1709.01215), an upper bound of the cross-entropy under the mixture (Jensen's inequality). With
    ``neighbour_weight`` documents with similar words have the same topics, and with ``usage_weight`` all topics are
    used (SCAN, Van Gansbeke et al. 2020, arXiv:2005.12320); ``divergence_weight`` makes the words of topics differ.

    Args:
        num_topics: K.
        generator: ``mixture``; ``gaussian``, with Gaussian topics among word embeddings; ``mlp``, the papers'.
        bidirectional: Train an encoder; false is ATM.
        hidden_features: Hidden width of critic, encoder and ``mlp`` generator.
        alpha: Concentration of the Dirichlet. Default: 1 / K, as in the papers.
        init: Initial topics: ``nmf``, of the training documents, or ``random``.
        cycle_weight: Weight of the cycle term; 0 leaves it out.
        neighbour_weight: Weight of ``-E ln <theta, theta'>`` of documents and their ``neighbour`` in the batch.
        usage_weight: Weight of the entropy of the mean proportions of a batch, which is maximized.
        divergence_weight: Weight of the Jensen-Shannon divergence of the topics, which is maximized.
        dropout: Probability of dropping a hidden feature of the encoder.
        word_dropout: Probability of leaving out a word of a document that the encoder reads in training.
        regularizer: Lipschitz constraint of the critic: ``clip``, ``gradient_penalty`` (weight 10), ``spectral_norm``.
        weight_clip: Bound of the critic's weights for ``clip``.
        n_critic: Critic updates per update of generator and encoder.
        contrast: ``topic``, ``averaged`` or ``label``, see ``TopicContrast``; null leaves it out.
        contrastive_weight: Weight of the contrastive loss.
        temperature: Temperature of InfoNCE.
        lr: Absolute learning rate of critic and encoder. Default without ``base_lr``: 3e-3.
        base_lr: Rate per document: lr = base_lr x batch_size x devices x nodes. Give one of the two.
        generator_lr: Absolute learning rate of the generator. Default: that of the others.
        optimization: Optimizer settings; ``clip`` is for generator and encoder, ``disc_...`` for the critic.
        num_classes: Number of labels, for ``nmi``, ``purity`` and ``contrast=label``; taken from the data.
        vocab_size: V; the command line takes it from the data. Rows of ``bow`` (B, V) are divided by their sums.

    Example:
        >>> model = GANTopicModel(num_topics=3, vocab_size=50).eval()
        >>> tuple(model.topics().shape), tuple(model.transform(torch.ones(2, 50)).shape), tuple(model.sample(4).shape)
        ((3, 50), (2, 3), (4, 50))
    """

    modality = "text"
    default_lr = 3e-3

    def __init__(
        self,
        num_topics: Count = 20,
        generator: Literal["mixture", "gaussian", "mlp"] = "mixture",
        bidirectional: bool = True,
        hidden_features: Count = 100,
        alpha: Positive | None = None,
        init: Literal["nmf", "random"] = "nmf",
        cycle_weight: NonNegative = 0.03,
        neighbour_weight: NonNegative = 0.0,
        usage_weight: NonNegative = 0.0,
        divergence_weight: NonNegative = 0.0,
        dropout: Probability = 0.0,
        word_dropout: Probability = 0.0,
        regularizer: Literal["clip", "gradient_penalty", "spectral_norm"] = "clip",
        weight_clip: Positive = 0.01,
        n_critic: Count = 5,
        contrast: Literal["topic", "averaged", "label"] | None = None,
        contrastive_weight: NonNegative = 1.0,
        temperature: Positive = 0.5,
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        generator_lr: Positive | None = None,
        optimization: GANOptimization = GANOptimization(),
        num_classes: NonNegativeInt = 0,
        vocab_size: Count = 2000,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if num_topics > vocab_size:
            raise UserError(f"num_topics must be at most the number of words, {vocab_size}, got {num_topics}")
        if init == "nmf" and generator != "mixture":
            raise UserError(f"init=nmf needs generator=mixture, got {generator}: set init=random")
        if not bidirectional and (cycle_weight or neighbour_weight or usage_weight or contrast == "label"):
            weights = "cycle_weight=0, neighbour_weight=0 and usage_weight=0"
            raise UserError(f"bidirectional=false has no encoder: set {weights}, and not contrast=label")
        if contrast == "label" and not num_classes:
            raise UserError("contrast=label needs data with labels: choose other data, or contrast=averaged")
        self.num_topics, self.vocab_size, self.num_classes = num_topics, vocab_size, num_classes
        self.alpha, self.init, self.cycle_weight = alpha or 1 / num_topics, init, cycle_weight
        self.neighbour_weight, self.usage_weight = neighbour_weight, usage_weight
        self.divergence_weight = divergence_weight
        self.regularizer, self.weight_clip, self.n_critic = regularizer, weight_clip, n_critic
        self.contrast, self.contrastive_weight, self.temperature = contrast, contrastive_weight, temperature
        self.generator_lr, self.optimization = generator_lr, optimization

        width = {"hidden_features": hidden_features} if generator == "mlp" else {}
        self.generator = GENERATORS[generator](num_topics, vocab_size, **width)
        encoder = (vocab_size, num_topics, hidden_features, dropout, word_dropout)
        self.encoder = TopicEncoder(*encoder) if bidirectional else None
        spectral_norm = regularizer == "spectral_norm"
        self.critic = TopicCritic(vocab_size, num_topics if bidirectional else 0, hidden_features, spectral_norm)
        sizes = (self.generator.out_features, num_classes, hidden_features)
        self.contrasted = TopicContrast(num_topics, *sizes) if contrast else None
        self.clusters = TopicClusters(num_topics, num_classes)
        self.vocabulary: list[str] | None = None

    @torch.no_grad()
    def topics(self) -> Tensor:
        """Return the topics, (K, V); rows sum to 1."""
        return self.generator.log_topics().exp()

    def top_words(self, n: int = TOP) -> list[list[str]]:
        """Return the ``n`` most probable words of each topic, or their indices if the model has no vocabulary."""
        words = self.vocabulary or [str(v) for v in range(self.vocab_size)]
        return [[words[v] for v in topic] for topic in top_word_ids(self.topics(), n)]

    def transform(self, bow: Tensor) -> Tensor:
        """Return the topic proportions (B, K) of documents (B, V) with at least one word each."""
        if self.encoder is None:
            raise UserError("transform needs an encoder: train with --model.bidirectional=true")
        return self.encoder(self._documents(bow))

    @torch.no_grad()
    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw documents as distributions over words, (num, V)."""
        return dense(self.generator(self._prior(num, generator)))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Update the critic, and on every ``n_critic``-th batch generator and encoder."""
        if self.neighbour_weight and "neighbour" not in batch:
            raise UserError("neighbour_weight needs batches with neighbour: set --data.neighbours=20")
        real, theta = self._documents(batch["bow"]), self._prior(len(batch["bow"]))
        optimizers: Any = self.trainer.optimizers
        generator_step = (self.global_step + 1) % self.n_critic == 0

        loss, terms = self._critic_loss(batch["bow"], real, theta)
        require_finite({"d_loss": loss, **terms}, batch_idx, self.global_step)
        collect(loss, self.critic.parameters())
        clip(self.critic.parameters(), self.optimization.disc_clip)
        if generator_step:
            optimizers[-1].step()  # the gradients are kept for the log until the generator steps
        else:
            step_and_zero(self, optimizers[-1])
        if self.regularizer == "clip":
            for weight in self.critic.parameters():
                weight.data.clamp_(-self.weight_clip, self.weight_clip)
        if generator_step:
            g_loss, g_terms = self._generator_loss(batch, real, theta)
            require_finite(g_terms, batch_idx, self.global_step)
            parameters = [*self.generator.parameters(), *self._encoder_parameters()]
            collect(g_loss, parameters)
            clip(parameters, self.optimization.clip)
            terms |= g_terms
            for optimizer in optimizers[1:-1]:  # the encoder's
                optimizer.step()
            step_and_zero(self, optimizers[0])
        self.log_terms(terms | {"d_loss": loss}, prog_bar="d_loss")
        count_batch(self)
        return loss.detach()

    def _critic_loss(self, bow: Tensor, real: Bags, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critic's loss and terms for the log."""
        with torch.no_grad():
            fake, inferred = self.generator(theta), self._infer(real, theta)
        loss = -self._distance(real, inferred, fake, theta)
        terms = {"wasserstein": -loss.detach()}
        if self.regularizer == "gradient_penalty":
            documents = bow / bow.sum(1, keepdim=True)
            penalty = gradient_penalty(self.critic, (documents, inferred), (dense(fake), theta))
            loss, terms["penalty"] = loss + 10 * penalty, penalty.detach()
        return loss, terms

    def _generator_loss(self, batch: dict[str, Tensor], real: Bags, theta: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of generator and encoder against the updated critic, and terms for the log."""
        read = real
        if self.neighbour_weight:  # one pass, so that batch norm sees documents and neighbours
            read = self._documents(torch.cat([batch["bow"], batch["neighbour"]]))
        (fake, traits), proportions = self.generator.generate(theta), self._infer(read, theta)
        inferred = proportions[: len(theta)]
        loss = self._distance(real, inferred, fake, theta)
        terms = {"g_loss": loss.detach()}
        if self.cycle_weight:
            cycle = self.generator.cross_entropy(real, inferred).mean()
            loss, terms["cycle"] = loss + self.cycle_weight * cycle, cycle.detach()
        if self.neighbour_weight:
            apart = neighbour_loss(*proportions.chunk(2))
            loss, terms["neighbour"] = loss + self.neighbour_weight * apart, apart.detach()
        if self.usage_weight:
            usage = usage_entropy(proportions)
            loss, terms["usage"] = loss - self.usage_weight * usage, usage.detach()
        if self.divergence_weight:
            divergence = topic_divergence(self.generator.log_topics())
            loss, terms["divergence"] = loss - self.divergence_weight * divergence, divergence.detach()
        if self.contrasted is not None:
            if self.contrast == "label":
                contrast = self.contrasted.by_label(inferred, batch["label"], self.temperature)
            else:
                contrast = self.contrasted.by_topic(traits, theta, self.temperature, self.contrast == "averaged")
            loss, terms["contrast"] = loss + self.contrastive_weight * contrast, contrast.detach()
        return loss, terms

    def _distance(self, real: Bags, inferred: Tensor, fake: Documents, theta: Tensor) -> Tensor:
        """Return E D(real) - E D(generated)."""
        return self.critic(real, inferred).mean() - self.critic(fake, theta).mean()

    def _prior(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        return draw_proportions(num, self.num_topics, self.alpha, generator).to(self.critic.out.weight)

    def _infer(self, documents: Bags, like: Tensor) -> Tensor:
        """Return the documents' proportions (B, K); without an encoder unused zeros like ``like``."""
        return torch.zeros_like(like) if self.encoder is None else self.encoder(documents)

    def _documents(self, bow: Tensor) -> Bags:
        if bow.ndim != 2 or bow.shape[1] != self.vocab_size:
            rule = f"documents must be (B, {self.vocab_size}), got {tuple(bow.shape)}"
            raise UserError(f"{rule}: use the vocabulary of the training")
        if not bool((bow.sum(1) > 0).all()):
            raise UserError("a document has no word of the vocabulary: leave it out")
        return Bags(bow)

    def _encoder_parameters(self) -> list[nn.Parameter]:
        parts = (self.encoder, self.contrasted)
        return [weight for part in parts if part is not None for weight in part.parameters()]

    def configure_optimizers(self) -> Any:
        settings = self.optimization
        optimizers = [settings.optimizer(self, self.generator.parameters(), "generator", lr=self.generator_lr)]
        if self._encoder_parameters():
            optimizers.append(settings.optimizer(self, self._encoder_parameters(), "encoder"))
        return [*optimizers, settings.optimizer(self, self.critic.parameters(), "critic", lr=settings.disc_lr)]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        self.vocabulary = getattr(self._data, "vocabulary", None)
        if self.init == "nmf" and self.trainer.ckpt_path is None:
            if not hasattr(self._data, "train_documents"):
                raise UserError("init nmf needs a DataModule of texts: give one to Trainer.fit, or set init=random")
            start = nmf_topics(self._data.train_documents(), self.num_topics, torch.initial_seed() % 2**32)
            self.generator.logits.data.copy_(start.log())

    def get_extra_state(self) -> Tensor:
        """Return the vocabulary, one word per line, as UTF-8 bytes, for the checkpoint."""
        return torch.tensor(list("\n".join(self.vocabulary or []).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.vocabulary = bytes(state.tolist()).decode().split("\n") if len(state) else None

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``proportions`` (B, K) with the batch's ``index``."""
        return {"proportions": self.transform(batch["bow"]), **passed_on(batch, "index")}

    def start_evaluation(self) -> None:
        self.clusters.reset()

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log the cycle loss of a batch, and update the cluster metrics with its proportions."""
        if self.encoder is None:
            return
        documents = self._documents(batch["bow"])
        theta = self.encoder(documents)
        self.clusters.update(theta, batch["label"])
        loss = self.generator.cross_entropy(documents, theta).mean()
        self.log_means(stage, {"loss": loss}, len(theta), prog_bar=True)

    def finish_evaluation(self, stage: str) -> None:
        """Log the coherence of the topics in the training texts, and the cluster metrics of the documents."""
        metrics: dict[str, Any] = {}
        if (reference := getattr(self._data, "reference", None)) is not None:
            metrics |= topic_figures(top_word_ids(self.topics().float(), min(TOP, self.vocab_size)), reference)
        if self.encoder is not None:
            metrics |= self.clusters.compute()
        self.log_dict({f"{stage}/{name}": float(value) for name, value in metrics.items()})  # the same on all ranks

    @property
    def _data(self) -> Any:
        return getattr(self._trainer, "datamodule", None)

    def topic_table(self) -> TopicTable:
        """Return the topics with their words, coherence and defects."""
        counts = None if self.encoder is None else self.clusters.counts.sum(1)
        return topic_table(self.topics().float(), self.top_words(min(TOP, self.vocab_size)), self._data, counts)
