"""Health rules: what each event means, its threshold, and where the threshold comes from.

"Measured" refers to healthy and to failing runs of this library; the threshold lies between them. Unless stated
otherwise, what is read from the log must hold over ``window`` lines.
"""

import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

from vqlab.callbacks.health.history import ENOUGH, FEWEST, RunHistory, Thresholds, detrended_spread

Evidence = Callable[[RunHistory, Thresholds], str | None]
When = Literal["line", "gradient", "validation"]

ACCURACY = ("p_real", "p_fake", "reals_passed", "fakes_caught")  # of a discriminator
LOSSES = ("rec_loss", "loss", "l1")
GLYPHS = ("l1_gain", "grey", "retrieval", "retrieval_identity")
INFORMED = 0.01  # nats per code position
REVIVE = "set --model.quantizer.init=kmeans --model.quantizer.revive_after=16, or lower --model.lr"
SHARPEN = "set --model.likelihood.sigma=optimal, or lower --model.lr"
MORE_PROPOSALS = "set --model.likelihood.sigma=optimal, or raise --model.sampler.num_mis_steps or --model.smoothing"
WEAKEN = "lower disc_lr, or set --model.spectral_norm=true or --model.objective=feature_matching"
STRENGTHEN = "raise disc_lr, or lower --model.lr or the discriminator's dropout or noise"
SEPARATE = "set --model.init=nmf, raise --model.cycle_weight, or lower --model.num_topics or --model.generator_lr"


class Rule(NamedTuple):
    """A check for one problem.

    Attributes:
        event: Name of the event.
        when: Checked at each log ``line``, at its ``gradient`` (before the step), or at each ``validation``.
        hint: How to fix it, unless the model has its own hint (``health_hints``); ``{clip}`` is its clipping option.
        evidence: Returns what was observed, or None.
    """

    event: str
    when: When
    hint: str
    evidence: Evidence


RULES: list[Rule] = []


def rule(event: str, when: When, hint: str) -> Callable[[Evidence], Evidence]:
    """Register the decorated function as a :class:`Rule`."""

    def register(evidence: Evidence) -> Evidence:
        RULES.append(Rule(event, when, hint, evidence))
        return evidence

    return register


# Losses, gradients, learning rate


@rule("loss_oscillation", "line", "lower --model.lr, or raise --data.batch_size")
def loss_oscillation(history: RunHistory, limits: Thresholds) -> str | None:
    """Over the last third of the log, the spread of the loss about its trend exceeds ``oscillation`` of its mean."""
    losses = history.lines.get("loss", [])
    last_third = losses[-(len(losses) // 3) :]  # the first fall of the loss is no straight line
    spread = detrended_spread(last_third)
    if len(last_third) < ENOUGH or spread <= limits.oscillation:
        return None
    return f"over the last third of the log train/loss varies by {spread:.0%} of its mean about its trend"


@rule("loss_divergence", "line", "resume from best.ckpt with a lower --model.lr, or clip with {clip}=1")
def loss_divergence(history: RunHistory, limits: Thresholds) -> str | None:
    """The loss stays above twice its best window mean, or its first value; measured: 1.1, diverging runs 6 and more.

    A rising loss is the tuning playbook's sign of an unstable training (Godbole et al. 2023). Likelihoods are skipped
    where they are negative or sigma changes; their errors (``rec_loss``) are compared instead.
    """
    for name in LOSSES:
        earlier, recent, window = history.earlier(name), history.recent(name), history.window
        if len(earlier) < window or min(earlier) <= 0 or (name == "loss" and "sigma" in history.lines):
            continue
        means = (statistics.fmean(earlier[end - window : end]) for end in range(window, len(earlier) + 1))
        best = min(earlier[0], *means)
        if min(recent) > 2 * best:
            return f"train/{name} stays above {min(recent):.3g}, {min(recent) / best:.1f} times its best"
    return None


@rule("exploding_gradient", "gradient", "lower --model.lr, or clip with {clip}=1")
def exploding_gradient(history: RunHistory, limits: Thresholds) -> str | None:
    """The gradient norm, at one line, exceeds ``explosion`` times its median so far, or is not finite."""
    *earlier, norm = history.lines.get("grad_norm") or [0.0]
    if len(earlier) < ENOUGH or norm <= limits.explosion * (usual := statistics.median(earlier)):
        return None
    return f"gradient norm {norm:.3g}, {norm / max(usual, 1e-12):.0f} times its median"


@rule(
    "vanishing_gradient",
    "gradient",
    "start again with a lower --model.lr or --model.optimization.schedule.warmup_steps=500",
)
def vanishing_gradient(history: RunHistory, limits: Thresholds) -> str | None:
    """The gradient norm of a part stays below 1e-4 of its earlier median (Glorot and Bengio 2010).

    Dead units do not recover. A converged model keeps more, because batches differ.
    """
    for name in (name for name in history.lines if name.startswith("grad_norm/")):
        earlier, recent = history.earlier(name), history.recent(name)
        if len(earlier) >= ENOUGH and max(recent) < 1e-4 * (usual := statistics.median(earlier)):
            return f"{name} is at most {max(recent):.1e} over {len(recent)} lines of the log, {usual:.1e} before"
    return None


@rule("learning_rate_too_high", "line", "lower --model.lr")
def learning_rate_too_high(history: RunHistory, limits: Thresholds) -> str | None:
    """Steps change the weights by more than 10 %; the CS231n notes (Karpathy, "Neural networks 3") advise 0.1 %.

    Measured: 0.4 to 3 % of all models, 270 % at lr=1; single steps of a critic with clipped weights reach 90 %.
    """
    recent = history.recent("update_ratio")
    if not recent or min(recent) <= 0.1:
        return None
    return f"a step changes the weights by {statistics.median(recent):.0%}, 0.1 % is usual"


@rule("learning_rate_too_low", "line", "raise --model.lr")
def learning_rate_too_low(history: RunHistory, limits: Thresholds) -> str | None:
    """No step so far changed the weights by a thousandth of that 0.1 %, and the rate is not being warmed up."""
    ratios, rates = history.lines.get("update_ratio", []), history.recent("rate")
    if not rates or rates[-1] > rates[0] or history.step < limits.grace_steps or max(ratios, default=1.0) >= 1e-6:
        return None
    return f"no step changes the weights by more than {max(ratios):.1e} of them, 1e-3 is usual"


@rule(
    "plateau",
    "validation",
    "set --plateau.patience=3 or --model.optimization.schedule.kind=cosine; or stop here, with best.ckpt",
)
def plateau(history: RunHistory, limits: Thresholds) -> str | None:
    """For a third of the run, and eight validations, neither the monitored metric nor the training loss improved.

    Runs whose rate is below half of its maximum, or that have a tenth left, have converged instead; a run that overfits
    has a loss that falls; an adversarial loss need not fall.
    """
    scores, steps = (history.validations.get(name, []) for name in ("monitor", "step"))
    lines = history.lines
    losses, rates = lines.get("rec_loss") or lines.get("loss") or [], lines.get("rate") or [0.0]
    if len(scores) <= 8 or "g_loss" in lines or rates[-1] < max(rates) / 2:
        return None
    best = 0
    for number, score in enumerate(scores):
        best = number if score < scores[best] - 1e-3 * abs(scores[best]) else best
    since = (history.step - steps[best]) / history.steps
    if len(scores) - 1 - best < 8 or since < 1 / 3 or history.step > 0.9 * history.steps:
        return None
    stalled = losses[-round(since * history.lines_planned) :]
    if len(stalled) < 2 * FEWEST:
        return None
    half = len(stalled) // 2
    first, second = statistics.median(stalled[:half]), statistics.median(stalled[half:])
    if second < first - 0.01 * abs(first):
        return None
    return f"neither {history.monitor} nor the loss improved since step {steps[best]:.0f}, at a rate that is still high"


# Codes


@rule("codebook_collapse", "line", REVIVE)
def codebook_collapse(history: RunHistory, limits: Thresholds) -> str | None:
    """Usage since the last line is below ``min_usage``, or perplexity below ``min_perplexity`` of K (see README)."""
    return unused_codes(history, limits, "train")


@rule("codebook_collapse", "validation", REVIVE)
def codebook_collapse_in_validation(history: RunHistory, limits: Thresholds) -> str | None:
    """As in training, over the whole validation set."""
    return unused_codes(history, limits, "val")


def unused_codes(history: RunHistory, limits: Thresholds, stage: str) -> str | None:
    """Return usage and perplexity of the codes, if one is too low."""
    usage, perplexity = (history.latest(name, stage) for name in ("codebook_usage", "perplexity"))
    if usage is None or perplexity is None or history.step < limits.grace_steps:
        return None
    if usage >= limits.min_usage and perplexity >= limits.min_perplexity * history.num_embeddings:
        return None
    return f"{usage:.1%} of {history.num_embeddings} codes used, perplexity {perplexity:.1f} ({stage})"


@rule("codebook_slow_death", "validation", REVIVE)
def codebook_slow_death(history: RunHistory, limits: Thresholds) -> str | None:
    """Usage fell at four validations in a row, by a fifth in all, and extrapolates to ``min_usage`` within the run.

    A codebook that settles falls by less each time and does not count.
    """
    usage, steps = (history.validations.get(name, [])[-5:] for name in ("codebook_usage", "step"))
    falls = [before - after for before, after in pairwise(usage)]
    if len(falls) < 4 or steps[0] < limits.grace_steps or min(falls) <= 0:
        return None
    pace = falls[-1] / max(1, steps[-1] - steps[-2])
    end = min(history.steps, 2 * history.step)
    if usage[-1] > 0.8 * usage[0] or usage[-1] - pace * (end - history.step) >= limits.min_usage:
        return None
    return f"usage fell from {usage[0]:.0%} to {usage[-1]:.0%} over 4 validations and keeps falling"


@rule("proposal_collapse", "line", MORE_PROPOSALS)
def proposal_collapse(history: RunHistory, limits: Thresholds) -> str | None:
    """Cached chains accept less than 0.1 % of the proposals; measured: 5 to 8 %.

    New chains accept a fixed fraction, whatever the model (``jsa.record_rate``), and are not judged.
    """
    accepted, known = history.recent("accept_rate_cached"), history.recent("known_chains")
    if not accepted or not known or min(known) < 0.5 or history.step < limits.grace_steps:
        return None
    if (rate := statistics.fmean(accepted)) >= 1e-3:
        return None
    age = history.latest("chain_age") or 0
    return f"the chains accept {rate:.2%} of the proposed codes and are unchanged for {age:.0f} visits"


@rule("posterior_collapse", "line", SHARPEN)
def indifferent_posterior(history: RunHistory, limits: Thresholds) -> str | None:
    """99 % of the proposals are accepted: p(x, h) / q(h | x) is the same for all h. Measured: 45 %, later 20 %.

    A q that equals the posterior is accepted, too, but its codes carry information on the image.
    """
    accepted, information = history.recent("accept_rate"), history.latest("mutual_information", "val")
    if not accepted or (information or 0) >= INFORMED or history.step < limits.gan_grace_steps:
        return None
    rate = statistics.fmean(accepted)
    return f"the chains accept {rate:.1%} of the proposed codes: the decoder ignores the codes" if rate > 0.99 else None


@rule("posterior_collapse", "validation", SHARPEN)
def posterior_collapse(history: RunHistory, limits: Thresholds) -> str | None:
    """At two validations I(x; h) of Hoffman and Johnson (2016) is below 0.01 nats per code position.

    Measured: 0.05 after 50 steps, when it starts to rise.
    """
    nats = history.last_two("mutual_information", limits.gan_grace_steps)
    return f"a code position carries {nats[-1]:.1e} nats of the image" if nats and max(nats) < INFORMED else None


# Adversarial models


@rule("discriminator_too_strong", "line", WEAKEN)
def discriminator_too_strong(history: RunHistory, limits: Thresholds) -> str | None:
    """Mean D(x) and 1 - D(G(z)) both exceed ``certainty``: the gradient vanishes (Arjovsky and Bottou 2017)."""
    p_real, p_fake, *_ = discriminator_means(history, limits) or (0.0, 1.0)
    if min(p_real, 1 - p_fake) <= limits.certainty:
        return None
    return f"D(x) is {p_real:.3f} and D(G(z)) {p_fake:.4f} over {ENOUGH} lines of the log"


@rule("discriminator_too_weak", "line", STRENGTHEN)
def discriminator_too_weak(history: RunHistory, limits: Thresholds) -> str | None:
    """The accuracy over real and generated images is below ``blindness``; chance is one half."""
    *_, real, fake = discriminator_means(history, limits) or (1.0, 1.0)
    if (real + fake) / 2 >= limits.blindness:
        return None
    return f"it accepts {real:.0%} of the real images and rejects {fake:.0%} of the generated ones"


def discriminator_means(history: RunHistory, limits: Thresholds) -> list[float]:
    """Return the means of ``ACCURACY`` over the last lines, empty within ``gan_grace_steps``."""
    metrics = [history.lines.get(name, [])[-ENOUGH:] for name in ACCURACY]
    ready = history.step >= limits.gan_grace_steps and min(map(len, metrics)) == ENOUGH
    return list(map(statistics.fmean, metrics)) if ready else []


@rule("mode_collapse", "validation", "set --model.objective=feature_matching, or lower --model.lr")
def mode_collapse(history: RunHistory, limits: Thresholds) -> str | None:
    """At two validations the diversity of generated images, or the fraction of classes, is below ``min_diversity``."""
    diversity, drawn = (history.last_two(name, limits.gan_grace_steps) for name in ("diversity", "classes_drawn"))
    fractions = [[value / max(1, history.num_classes) for value in drawn]] if drawn else []
    if not diversity or any(min(both) >= limits.min_diversity for both in zip(diversity, *fractions, strict=True)):
        return None
    classes = f", in {drawn[-1]:.1f} of {history.num_classes} classes" if drawn else ""
    return f"generated images differ by {diversity[-1]:.0%} of the differences between real ones{classes}"


@rule("worse_than_copying", "validation", "raise --model.lr or --model.l1_weight, or train longer")
def worse_than_copying(history: RunHistory, limits: Thresholds) -> str | None:
    """Generated held-out glyphs are farther from the target than the unchanged source glyphs."""
    gain, *_ = glyph_metrics(history, limits) or (0.0,)
    return f"held-out glyphs are {-gain:.0%} farther from the target than the source's" if gain < 0 else None


@rule("blur", "validation", "raise disc_weight, or lower --model.l1_weight")
def blur(history: RunHistory, limits: Thresholds) -> str | None:
    """Glyphs have twice the grey pixels of the target; measured: 1.1 of trained models, 5.6 of the mean glyph."""
    _, grey, *_ = glyph_metrics(history, limits) or (0.0, 0.0)
    return f"glyphs have {grey:.1f} times as many grey pixels as the target" if grey > 2 else None


@rule("content_lost", "validation", "raise --model.l1_weight, or lower disc_weight")
def content_lost(history: RunHistory, limits: Thresholds) -> str | None:
    """10 percentage points fewer glyphs than of the source retrieve their own target; measured: 1.00, mean glyphs 0."""
    *_, found, identity = glyph_metrics(history, limits) or (0.0, 0.0)
    lost = found < identity - 0.1
    return (
        f"{found:.0%} of the glyphs are nearest to their own target, {identity:.0%} of the source's" if lost else None
    )


def glyph_metrics(history: RunHistory, limits: Thresholds) -> list[float]:
    """Return the last values of ``GLYPHS``, empty for other models and within ``gan_grace_steps``."""
    metrics = [value for name in GLYPHS if (value := history.latest(name, "val")) is not None]
    return metrics if len(metrics) == len(GLYPHS) and history.step >= limits.gan_grace_steps else []


@rule("topic_collapse", "validation", SEPARATE)
def topic_collapse(history: RunHistory, limits: Thresholds) -> str | None:
    """At two validations topics share half of their words, or 15 % of the words are distinct, or half are unused.

    Redundancy: Burkhardt and Kramer (2019); diversity: Dieng, Ruiz and Blei (2020). Measured: runs that end with a
    diversity of 0.6 or more pass through a redundancy of 0.44 and a diversity of 0.17.
    """
    names = ("topic_redundancy", "topic_diversity", "topic_usage")
    redundancy, diversity, usage = (history.last_two(name, limits.gan_grace_steps) for name in names)
    if redundancy and min(redundancy) > 0.5:
        return f"two topics share {redundancy[-1]:.0%} of their words, on average"
    if diversity and max(diversity) < 0.15:
        return f"{diversity[-1]:.0%} of the topics' words are distinct"
    if usage and max(usage) < 0.5:
        return f"{usage[-1]:.0%} of the topics are dominant in any document"
    return None
