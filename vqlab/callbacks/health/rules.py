"""Health rules: the meaning, the threshold and the source of each event.

"Measured" refers to healthy and to failing runs of this library; the threshold lies between them. Unless stated
otherwise, a condition on the log must hold over ``window`` lines.
"""

import statistics
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

from vqlab.callbacks.health.history import ENOUGH, FEWEST, RunHistory, Thresholds, detrended_spread

When = Literal["line", "gradient", "validation"]
Events = Iterator[tuple[str, str]]  # event, evidence

ACCURACY = ("p_real", "p_fake", "reals_passed", "fakes_caught")  # of a discriminator
LOSSES = ("rec_loss", "loss", "l1")
GLYPHS = ("l1_gain", "grey", "retrieval", "retrieval_identity")
INFORMED = 0.01  # nats per code position
REVIVE = "set --model.quantizer.init=kmeans --model.quantizer.revive_after=16, or lower --model.lr"
# How to fix each event, unless the model has its own hint (``health_hints``); {clip} is its clipping option.
HINTS = {
    "loss_oscillation": "lower --model.lr, or raise --data.batch_size",
    "loss_divergence": "resume from best.ckpt with a lower --model.lr, or clip with {clip}=1",
    "exploding_gradient": "lower --model.lr, or clip with {clip}=1",
    "vanishing_gradient": "restart with a lower --model.lr or --model.optimization.schedule.warmup_steps=500",
    "learning_rate_too_high": "lower --model.lr",
    "learning_rate_too_low": "raise --model.lr",
    "plateau": "set --plateau.patience=3 or --model.optimization.schedule.kind=cosine; or stop here, with best.ckpt",
    "codebook_collapse": REVIVE,
    "codebook_slow_death": REVIVE,
    "proposal_collapse": "set --model.likelihood.sigma=optimal or, for maps of codes, --model.sampler.kernel=ncg",
    "posterior_collapse": "set --model.likelihood.sigma=optimal, or lower --model.lr",
    "discriminator_too_strong": "lower disc_lr, set --model.spectral_norm=true or --model.objective=feature_matching",
    "discriminator_too_weak": "raise disc_lr, or lower --model.lr or the discriminator's dropout or noise",
    "mode_collapse": "set --model.objective=feature_matching, or lower --model.lr",
    "worse_than_copying": "raise --model.lr or --model.l1_weight, or train longer",
    "blur": "raise disc_weight, or lower --model.l1_weight",
    "content_lost": "raise --model.l1_weight, or lower disc_weight",
    "topic_collapse": "set --model.init=nmf; raise --model.cycle_weight, or lower num_topics or generator_lr",
}


def losses(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report an oscillation about the trend over the last third of the log, and a divergence.

    A diverging loss stays above twice its best window mean and its first value (Godbole et al. 2023, tuning playbook);
    measured: healthy 1.1, diverging 6 and more. ``rec_loss`` replaces a likelihood that is negative or whose sigma
    changes.
    """
    loss = history.lines.get("loss", [])
    last_third = loss[-(len(loss) // 3) :]  # the initial decrease of the loss is not linear
    spread = detrended_spread(last_third)
    if len(last_third) >= ENOUGH and spread > thresholds.oscillation:
        yield "loss_oscillation", f"train/loss varies by {spread:.0%} of its mean about its trend over the last third"
    for name in LOSSES:
        earlier, lowest, window = history.earlier(name), min(history.recent(name), default=0.0), history.window
        if len(earlier) < window or min(earlier) <= 0 or (name == "loss" and "sigma" in history.lines):
            continue
        means = (statistics.fmean(earlier[end - window : end]) for end in range(window, len(earlier) + 1))
        best = min(earlier[0], *means)
        if lowest > 2 * best:
            yield "loss_divergence", f"train/{name} stays above {lowest:.3g}, {lowest / best:.1f} times its best"


def gradients(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report a gradient norm above ``explosion`` times its median so far, at one line, and a vanishing one.

    The norm of a part vanishes if it stays below 1e-4 of its earlier median (Glorot and Bengio 2010): dead units do not
    recover. In a converged model it stays larger, because batches differ.
    """
    *before, norm = history.lines.get("grad_norm") or [0.0]
    if len(before) >= ENOUGH and norm > thresholds.explosion * (usual := statistics.median(before)):
        yield "exploding_gradient", f"gradient norm {norm:.3g}, {norm / max(usual, 1e-12):.0f} times its median"
    for name in (name for name in history.lines if name.startswith("grad_norm/")):
        earlier, recent = history.earlier(name), history.recent(name)
        if len(earlier) >= ENOUGH and max(recent) < 1e-4 * (usual := statistics.median(earlier)):
            yield "vanishing_gradient", f"{name} is below {max(recent):.1e} for {len(recent)} lines; median {usual:.0e}"


def learning_rate(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report steps that change the weights by more than 10 %, and a run without warm-up in which none exceeds 1e-6.

    The CS231n notes (Karpathy, "Neural networks 3") recommend 0.1 %. Measured: 0.4 to 3 % in all models, 270 % at lr=1;
    90 % in single steps of a critic with clipped weights.
    """
    recent, rates = history.recent("update_ratio"), history.recent("rate")
    if recent and min(recent) > 0.1:
        yield "learning_rate_too_high", f"a step changes the weights by {statistics.median(recent):.0%}, usual: 0.1 %"
    largest = max(history.lines.get("update_ratio", []), default=1.0)
    if rates and rates[-1] <= rates[0] and history.step >= thresholds.grace_steps and largest < 1e-6:
        yield "learning_rate_too_low", f"no step changes the weights by more than {largest:.1e} of them, usual: 1e-3"


def plateau(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report that neither the monitored metric nor the training loss improved for a third of the run, 8 validations.

    Not reported: a learning rate below half of its maximum and the last tenth of a run (convergence), a falling loss
    (overfitting), and adversarial losses, which need not fall.
    """
    scores, steps = (history.validations.get(name, []) for name in ("monitor", "step"))
    lines = history.lines
    loss, rates = lines.get("rec_loss") or lines.get("loss") or [], lines.get("rate") or [0.0]
    if len(scores) <= 8 or "g_loss" in lines or rates[-1] < max(rates) / 2 or history.step > 0.9 * history.steps:
        return
    best = 0
    for number, score in enumerate(scores):
        best = number if score < scores[best] - 1e-3 * abs(scores[best]) else best
    since = (history.step - steps[best]) / history.steps
    if len(scores) - 1 - best < 8 or since < 1 / 3:
        return
    stalled = loss[-round(since * history.lines_planned) :]
    half = len(stalled) // 2
    if half < FEWEST:
        return
    first, second = statistics.median(stalled[:half]), statistics.median(stalled[half:])
    if second >= first - 0.01 * abs(first):
        yield "plateau", f"{history.monitor} and the loss have not improved since step {steps[best]:.0f}"


def unused_codes(history: RunHistory, thresholds: Thresholds, stage: str = "train") -> Events:
    """Report a usage since the last line below ``min_usage``, or a perplexity below ``min_perplexity`` of K."""
    usage, perplexity = (history.latest(name, stage) for name in ("codebook_usage", "perplexity"))
    if usage is None or perplexity is None or history.step < thresholds.grace_steps:
        return
    if usage < thresholds.min_usage or perplexity < thresholds.min_perplexity * history.num_embeddings:
        codes = f"{usage:.1%} of {history.num_embeddings} codes used"
        yield "codebook_collapse", f"{codes}, perplexity {perplexity:.1f} ({stage})"


def codes_of_validation(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report unused codes over the whole validation set, and a slow death.

    That is a usage that fell in four validations in a row, by a fifth in total, and whose last slope leads to
    ``min_usage`` within the run. The usage of a codebook that converges falls by less each time.
    """
    yield from unused_codes(history, thresholds, "val")
    usage, steps = (history.validations.get(name, [])[-5:] for name in ("codebook_usage", "step"))
    falls = [before - after for before, after in pairwise(usage)]
    if len(falls) < 4 or steps[0] < thresholds.grace_steps or min(falls) <= 0:
        return
    left = min(history.steps, 2 * history.step) - history.step
    extrapolated = usage[-1] - falls[-1] / max(1, steps[-1] - steps[-2]) * left
    if usage[-1] <= 0.8 * usage[0] and extrapolated < thresholds.min_usage:
        yield "codebook_slow_death", f"usage falls: from {usage[0]:.0%} to {usage[-1]:.0%} in 4 validations"


def chains(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report cached chains that accept less than 0.1 % of the proposals (measured: 5 to 8 %), or all more than 99 %.

    New chains accept a fixed fraction for any model (``jsa.record_rate``) and are ignored. If all is accepted,
    p(x, h) / q(h | x) is the same for all h (measured: 45 %, later 20 %), unless q equals the posterior: then the codes
    carry information on the image.
    """
    cached, known = history.recent("accept_rate_cached"), history.recent("known_chains")
    if cached and known and min(known) >= 0.5 and history.step >= thresholds.grace_steps:
        rate, age = statistics.fmean(cached), history.latest("chain_age") or 0
        if rate < 1e-3:
            yield "proposal_collapse", f"the chains accept {rate:.2%} of the proposals, unchanged for {age:.0f} visits"
    accepted, information = history.recent("accept_rate"), history.latest("mutual_information", "val") or 0
    if accepted and information < INFORMED and history.step >= thresholds.gan_grace_steps:
        rate = statistics.fmean(accepted)
        if rate > 0.99:
            yield "posterior_collapse", f"the chains accept {rate:.1%} of the proposals: the decoder ignores the codes"


def posterior(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report I(x; h) (Hoffman, Johnson 2016) below 0.01 nats per code at two validations; measured: 0.05 at step 50."""
    nats = history.last_two("mutual_information", thresholds.gan_grace_steps)
    if nats and max(nats) < INFORMED:
        yield "posterior_collapse", f"a code position carries {nats[-1]:.1e} nats of the image"


def discriminator(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report mean D(x) and 1 - D(G(z)) above ``certainty``, or a mean accuracy below ``blindness`` (chance: 0.5).

    The gradient of a discriminator that is too strong vanishes (Arjovsky and Bottou 2017).
    """
    metrics = [history.lines.get(name, [])[-ENOUGH:] for name in ACCURACY]
    if history.step < thresholds.gan_grace_steps or min(map(len, metrics)) < ENOUGH:
        return
    p_real, p_fake, real, fake = map(statistics.fmean, metrics)
    if min(p_real, 1 - p_fake) > thresholds.certainty:
        yield "discriminator_too_strong", f"D(x) is {p_real:.3f} and D(G(z)) {p_fake:.4f} over {ENOUGH} lines"
    if (real + fake) / 2 < thresholds.blindness:
        yield "discriminator_too_weak", f"it accepts {real:.0%} of the real and rejects {fake:.0%} of generated images"


def modes(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report a diversity of generated images, or a fraction of classes, below ``min_diversity`` at two validations."""
    diversity, drawn = (history.last_two(name, thresholds.gan_grace_steps) for name in ("diversity", "classes_drawn"))
    fractions = [[value / max(1, history.num_classes) for value in drawn]] if drawn else []
    if diversity and all(min(both) < thresholds.min_diversity for both in zip(diversity, *fractions, strict=True)):
        classes = f", in {drawn[-1]:.1f} of {history.num_classes} classes" if drawn else ""
        yield "mode_collapse", f"generated images differ by {diversity[-1]:.0%} of the difference of real ones{classes}"


def glyphs(history: RunHistory, thresholds: Thresholds) -> Events:
    """Compare generated held-out glyphs with the source glyphs and with the target."""
    metrics = [value for name in GLYPHS if (value := history.latest(name, "val")) is not None]
    if len(metrics) < len(GLYPHS) or history.step < thresholds.gan_grace_steps:
        return
    gain, grey, found, identity = metrics
    if gain < 0:
        yield "worse_than_copying", f"held-out glyphs are {-gain:.0%} farther from the target than the source's"
    if grey > 2:  # measured: 1.1 of trained models, 5.6 of the mean glyph
        yield "blur", f"glyphs have {grey:.1f} times as many grey pixels as the target"
    if found < identity - 0.1:  # measured: 1.00, mean glyphs 0
        yield "content_lost", f"{found:.0%} of glyphs are nearest to their own target, {identity:.0%} of source glyphs"


def topics(history: RunHistory, thresholds: Thresholds) -> Events:
    """Report topics that, at two validations, share half of their words, repeat 85 % of them, or are half unused.

    Redundancy: Burkhardt and Kramer (2019); diversity: Dieng, Ruiz and Blei (2020). Measured: runs that end with a
    diversity of 0.6 or more pass through a redundancy of 0.44 and a diversity of 0.17.
    """
    names = ("topic_redundancy", "topic_diversity", "topic_usage")
    redundancy, diversity, usage = (history.last_two(name, thresholds.gan_grace_steps) for name in names)
    if redundancy and min(redundancy) > 0.5:
        yield "topic_collapse", f"two topics share {redundancy[-1]:.0%} of their words, on average"
    if diversity and max(diversity) < 0.15:
        yield "topic_collapse", f"{diversity[-1]:.0%} of the topics' words are distinct"
    if usage and max(usage) < 0.5:
        yield "topic_collapse", f"{usage[-1]:.0%} of the topics are dominant in any document"


# Checked at each log line, at its gradients (before the step), and at each validation
RULES: dict[When, tuple[Callable[[RunHistory, Thresholds], Events], ...]] = {
    "line": (losses, learning_rate, unused_codes, chains, discriminator),
    "gradient": (gradients,),
    "validation": (plateau, codes_of_validation, posterior, modes, glyphs, topics),
}
