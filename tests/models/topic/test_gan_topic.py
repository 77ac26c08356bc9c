"""GANTopicModel: training steps against plain PyTorch, recovery of known topics, checkpoints."""

import copy

import lightning
import pytest
import torch

import vqlab
from tests.helpers import bare
from tests.helpers.matched_topics import matched_topics
from tests.helpers.models import assert_same_weights, build
from tests.helpers.planted import Planted
from tests.helpers.refusal import refused
from vqlab.metrics.topics.words import top_word_ids
from vqlab.models import GANTopicModel
from vqlab.models.topic.topics import nmf_topics
from vqlab.nn.topic import Bags, TopicEncoder, dense
from vqlab.training import Schedule


def small(**options):
    torch.manual_seed(0)
    usual = {"num_topics": 4, "vocab_size": 60, "num_classes": 4, "hidden_features": 8, "init": "random", "lr": 1e-3}
    return build(GANTopicModel, **{**usual, **options})


def texts(**options):
    return Planted(**{"num_topics": 4, "vocab": 60, "num_documents": 200, "batch_size": 32, **options})


def fit(model, steps, data=None, callbacks=(), **settings):
    trainer = bare.trainer(*callbacks, max_steps=steps, **{"limit_val_batches": 0, **settings})
    trainer.fit(model, data or texts())
    return trainer


SETTINGS = [
    {},
    {"generator": "mlp", "cycle_weight": 0.0},
    {"generator": "gaussian", "contrast": "averaged"},
    {"bidirectional": False, "cycle_weight": 0.0, "contrast": "topic", "temperature": 0.1},
    {"regularizer": "gradient_penalty"},
    {"contrast": "label", "contrastive_weight": 0.3, "generator_lr": 1e-2},
    {"neighbour_weight": 0.3, "usage_weight": 0.2, "divergence_weight": 0.1},
]


def plain_steps(model, seen, settings):
    """The same steps in plain PyTorch on dense documents."""
    generator_lr = settings.get("generator_lr", 1e-3)
    others = [p for part in (model.encoder, model.contrasted) if part is not None for p in part.parameters()]
    optimizers = [torch.optim.Adam(model.generator.parameters(), generator_lr, (0.5, 0.999))]
    optimizers += [torch.optim.Adam(others, 1e-3, (0.5, 0.999))] if others else []
    critic = torch.optim.Adam(model.critic.parameters(), 1e-3, (0.5, 0.999))

    def infer(x, theta):
        return torch.zeros_like(theta) if model.encoder is None else model.encoder(x)

    for step, (batch, theta, fraction) in enumerate(seen, start=1):
        x = batch["bow"] / batch["bow"].sum(1, keepdim=True)
        fake, inferred = dense(model.generator(theta)).detach(), infer(x, theta).detach()
        loss = model.critic(fake, theta).mean() - model.critic(x, inferred).mean()
        if settings.get("regularizer") == "gradient_penalty":
            pair = [(fraction * a + (1 - fraction) * b).requires_grad_() for a, b in ((x, fake), (inferred, theta))]
            a, b = torch.autograd.grad(model.critic(*pair).sum(), pair, create_graph=True)
            loss = loss + 10 * ((a.square().sum(1) + b.square().sum(1)).sqrt() - 1).square().mean()
        critic.zero_grad()
        loss.backward()
        critic.step()
        if settings.get("regularizer", "clip") == "clip":
            with torch.no_grad():
                for weight in model.critic.parameters():
                    weight.copy_(weight.clip(-0.01, 0.01))
        if step % 2:
            continue
        fake = dense(model.generator(theta))
        if model.neighbour_weight:
            near = batch["neighbour"] / batch["neighbour"].sum(1, keepdim=True)
            both = infer(torch.cat([x, near]), theta)
            inferred, others = both[:32], both[32:]
        else:
            inferred = infer(x, theta)
        loss = model.critic(x, inferred).mean() - model.critic(fake, theta).mean()
        if model.neighbour_weight:
            loss = loss - model.neighbour_weight * (inferred * others).sum(1).log().mean()
            loss = loss + model.usage_weight * (both.mean(0) * both.mean(0).log()).sum()
            topics = model.generator.log_topics().exp()
            loss = loss - model.divergence_weight * (topics * (topics / topics.mean(0)).log()).sum() / len(topics)
        loss = loss - model.cycle_weight * (inferred[:, :, None] * x[:, None] * model.generator.log_topics()).sum() / 32
        if model.contrast:
            contrast, embed = model.contrasted, torch.nn.functional.normalize
            kinds = {"topic": theta.argmax(1), "label": batch["label"]}.get(model.contrast, torch.arange(32))
            averaged = (theta if model.contrast == "averaged" else inferred) @ contrast.topics
            anchors = averaged if model.contrast == "label" else fake @ contrast.projection
            positives = {
                "topic": contrast.topics[theta.argmax(1)],
                "averaged": averaged,
                "label": contrast.labels[batch["label"]],
            }[model.contrast]
            scores = (embed(anchors) @ embed(positives).T / model.temperature).exp()
            negatives = (kinds[:, None] != kinds) | torch.eye(32, dtype=torch.bool)
            fraction = scores.diagonal() / (scores * negatives).sum(1)
            loss = loss - model.contrastive_weight * fraction.log().mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize(
    ("settings", "weighting"),
    [*((settings, "tfidf") for settings in SETTINGS), ({"regularizer": "gradient_penalty"}, "counts")],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)) or "default",
)
def test_four_steps_equal_plain_pytorch(settings, weighting, monkeypatch):
    model = small(**settings, n_critic=2).double()
    plain = copy.deepcopy(model)
    thetas = [torch.rand(32, 4, dtype=torch.float64).softmax(1) for _ in range(4)]
    fractions = [torch.rand(32, dtype=torch.float64) for _ in range(4)]
    drawn_thetas, drawn_fractions = iter(thetas), iter(fractions)
    monkeypatch.setattr(GANTopicModel, "_prior", lambda self, num, *rest: next(drawn_thetas))
    seen = []

    class Collect(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batch |= {name: batch[name].double() for name in ("bow", "neighbour") if name in batch}
            seen.append({name: value.clone() for name, value in batch.items()})

    if settings.get("regularizer") == "gradient_penalty":
        monkeypatch.setattr(torch, "rand", lambda *size, **options: next(drawn_fractions))
    fit(model, 4, texts(weighting=weighting, neighbours=5), callbacks=[Collect()])
    monkeypatch.undo()
    plain_steps(plain, list(zip(seen, thetas, [fraction[:, None] for fraction in fractions], strict=True)), settings)
    assert_same_weights(model, plain)


@pytest.mark.parametrize("init", ["nmf", pytest.param("random", marks=pytest.mark.slow)])
def test_known_topics_are_found(init):
    lightning.seed_everything(0, verbose=False)
    data = Planted(num_documents=2000, weighting="counts")
    options = {"init": init, "generator_lr": 5e-2 if init == "random" else None}
    model = build(GANTopicModel, 10, vocab_size=400, schedule=Schedule("cosine"), **options)
    fit(model, 1000, data, log_every_n_steps=1000)
    model.eval()
    match = matched_topics(model.topics(), data.true)
    found, true = top_word_ids(model.topics())[match.index], top_word_ids(data.true)
    overlap = [len({*a.tolist()} & {*b.tolist()}) / 10 for a, b in zip(found, true, strict=True)]
    dominant = model.transform(torch.from_numpy(data.bow).float()).argmax(1).numpy()
    assert match.cosine.mean() >= 0.95
    assert match.cosine.min() >= 0.85
    assert sum(overlap) / 10 >= 0.9
    assert (match.index[data.dominant] == dominant).mean() >= 0.85


def test_checkpoint_contains_vocabulary(tmp_path):
    model, data = small(), texts()
    trainer = fit(model, 10, data, limit_val_batches=1.0, val_check_interval=5)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = vqlab.load(tmp_path / "model.ckpt")
    assert again.top_words(3) == model.top_words(3)
    assert again.top_words(3)[0][0].startswith("word")
    bow = torch.from_numpy(data.bow[:8]).float()
    torch.testing.assert_close(again.transform(bow), model.eval().transform(3 * bow))  # only proportions matter
    metrics = trainer.callback_metrics
    assert {"val/npmi_doc", "val/topic_diversity", "val/nmi", "val/purity", "val/loss"} <= set(metrics)
    assert "val/npmi" not in metrics  # counts have no windows


def test_nmf_initializes_topics_but_not_on_resume(tmp_path):
    data = texts()
    model = small(init="nmf")
    trainer = fit(model, 1, data, limit_train_batches=1)
    initial = matched_topics(model.topics(), data.true).cosine.mean()
    assert initial > matched_topics(small().topics(), data.true).cosine.mean() + 0.3
    model.generator.logits.data.zero_()
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    resumed = small(init="nmf")
    bare.trainer(max_steps=2, limit_val_batches=0).fit(resumed, data, ckpt_path=tmp_path / "model.ckpt")
    torch.testing.assert_close(resumed.topics(), torch.full((4, 60), 1 / 60))


def test_nmf_finds_known_topics_with_positive_probabilities():
    data = Planted(num_topics=6, vocab=200, num_documents=800)
    topics = nmf_topics(data.train_documents(), 6)
    torch.testing.assert_close(topics.sum(1), torch.ones(6))
    assert topics.min() > 0
    assert matched_topics(topics, data.true).cosine.min() > 0.7


def test_neighbour_weight_without_neighbours_is_refused():
    with refused("neighbour_weight needs batches with neighbour: set --data.neighbours=20"):
        fit(small(neighbour_weight=0.1, n_critic=1), 1)


def test_encoder_leaves_out_words_in_training_only():
    encoder = TopicEncoder(vocab_size=1000, num_topics=4, hidden_features=8, word_dropout=0.3)
    bow = torch.ones(2, 1000)
    kept = Bags(bow).without_some(0.3).fractions.view(2, 1000)
    assert {*kept.unique().tolist()} == {0.0, Bags(bow).fractions[0].item()}
    assert abs((kept == 0).float().mean().item() - 0.3) < 0.05
    assert not torch.equal(*(encoder(Bags(bow)) for _ in range(2)))
    encoder.eval()
    assert torch.equal(*(encoder(Bags(bow)) for _ in range(2)))
