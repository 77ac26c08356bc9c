"""Rules that look at each validation."""

import statistics
from itertools import pairwise

from vqlab.callbacks.health.history import FEWEST, RunHistory, Thresholds, rule
from vqlab.callbacks.health.training_rules import INFORMED, REVIVE, SHARPEN, unused_codes

FALLS, LEFT = 4, 0.8  # of a codebook's usage: falls in a row, and what they leave of it
BLURRED = 2.0  # times the target's grey pixels
LOST = 0.1  # of the glyphs, fewer than of the source's are nearest to their own target
GLYPHS = ("l1_gain", "grey", "retrieval", "retrieval_identity")
REDUNDANT, MONOTONOUS, ALIVE = 0.5, 0.15, 0.5  # of topics: redundancy, diversity, usage
VALIDATIONS, STALLED, LATE = 8, 1 / 3, 0.9  # of a plateau: validations, share of the run, and when it is none any more


@rule("codebook_collapse", REVIVE)
def codebook_collapse(course: RunHistory, limits: Thresholds) -> str | None:
    """As in training, of the whole validation set."""
    return unused_codes(course, limits, "val")


@rule("codebook_slow_death", REVIVE)
def codebook_slow_death(course: RunHistory, limits: Thresholds) -> str | None:
    """Usage fell four times in a row, by a fifth in all, and at its last pace will be below ``min_usage``.

    By the end of the run, that is. A codebook that settles falls by less each time, and is left alone.
    """
    usage, steps = (course.validations.get(name, [])[-FALLS - 1 :] for name in ("codebook_usage", "step"))
    falls = [sooner - later for sooner, later in pairwise(usage)]
    if len(falls) < FALLS or steps[0] < limits.grace_steps or min(falls) <= 0:
        return None
    pace = falls[-1] / max(1, steps[-1] - steps[-2])
    end = min(course.steps, 2 * course.step)
    if usage[-1] > LEFT * usage[0] or usage[-1] - pace * (end - course.step) >= limits.min_usage:
        return None
    return f"usage fell from {usage[0]:.0%} to {usage[-1]:.0%} over {FALLS} validations, and goes on to fall"


@rule("mode_collapse", "set --model.objective=feature_matching, or lower --model.lr")
def mode_collapse(course: RunHistory, limits: Thresholds) -> str | None:
    """Twice images differ by less than ``min_diversity`` of what real ones do, or as few of the classes are drawn."""
    diversity, drawn = (course.last_two(name, limits.gan_grace_steps) for name in ("diversity", "classes_drawn"))
    shares = [[value / max(1, course.num_classes) for value in drawn]] if drawn else []
    if not diversity or any(min(both) >= limits.min_diversity for both in zip(diversity, *shares, strict=True)):
        return None
    of = f", and are of {drawn[-1]:.1f} of {course.num_classes} classes" if drawn else ""
    return f"generated images differ by {diversity[-1]:.0%} of what real ones do{of}"


@rule("worse_than_copying", "raise --model.lr or --model.l1_weight, or train longer")
def worse_than_copying(course: RunHistory, limits: Thresholds) -> str | None:
    """Held-out glyphs are farther from the target than the source's, for which no network is needed."""
    gain, *_ = glyphs(course, limits) or (0.0,)
    return f"held-out glyphs are {-gain:.0%} farther from the target than the source's are" if gain < 0 else None


@rule("blur", "raise --model.disc_weight, or lower --model.l1_weight")
def blur(course: RunHistory, limits: Thresholds) -> str | None:
    """Glyphs have twice the target's grey pixels; measured: 1.1 of trained ones, 5.6 of the mean glyph."""
    _, grey, *_ = glyphs(course, limits) or (0.0, 0.0)
    return f"they have {grey:.1f} times as many grey pixels as the target's" if grey > BLURRED else None


@rule("content_lost", "raise --model.l1_weight, or lower --model.disc_weight")
def content_lost(course: RunHistory, limits: Thresholds) -> str | None:
    """Of a tenth fewer is the nearest target their own than of the source's; measured: 1.00 and, of mean glyphs, 0."""
    *_, found, identity = glyphs(course, limits) or (0.0, 0.0)
    lost = found < identity - LOST
    return f"{found:.0%} are nearest to their own target, of the source's {identity:.0%}" if lost else None


def glyphs(course: RunHistory, limits: Thresholds) -> list[float]:
    """Return the last of ``GLYPHS``, nothing of other models and before they are to be judged."""
    figures = [value for name in GLYPHS if (value := course.latest(name, "val")) is not None]
    return figures if len(figures) == len(GLYPHS) and course.step >= limits.gan_grace_steps else []


@rule("posterior_collapse", SHARPEN)
def posterior_collapse(course: RunHistory, limits: Thresholds) -> str | None:
    """Twice a position of the code tells less than 0.01 nats of the image: I(x; h) of Hoffman and Johnson (2016).

    Measured: 0.05 after 50 steps, when it has just begun to rise.
    """
    told = course.last_two("mutual_information", limits.gan_grace_steps)
    return f"a position of the code tells {told[-1]:.1e} nats of the image" if told and max(told) < INFORMED else None


@rule(
    "topic_collapse",
    "set --model.init=nmf, raise --model.cycle_weight, or lower --model.num_topics or --model.generator_lr",
)
def topic_collapse(course: RunHistory, limits: Thresholds) -> str | None:
    """Twice topics share half of their words, or 15 % of all are distinct, or half of the topics are dead.

    Redundancy is Burkhardt and Kramer's (2019), diversity Dieng, Ruiz and Blei's (2020). Measured: runs that end with a
    diversity of 0.6 or more pass through a redundancy of 0.44 and a diversity of 0.17.
    """
    names = ("topic_redundancy", "topic_diversity", "topic_usage")
    redundancy, diversity, usage = (course.last_two(name, limits.gan_grace_steps) for name in names)
    if redundancy and min(redundancy) > REDUNDANT:
        return f"two topics share {redundancy[-1]:.0%} of their words, on average"
    if diversity and max(diversity) < MONOTONOUS:
        return f"{diversity[-1]:.0%} of the topics' words are distinct"
    if usage and max(usage) < ALIVE:
        return f"{usage[-1]:.0%} of the topics are dominant in any document"
    return None


@rule("plateau", "set --plateau.patience=3 or --model.schedule.kind=cosine; or end here, with best.ckpt")
def plateau(course: RunHistory, limits: Thresholds) -> str | None:
    """For a third of the run, eight validations at the least, neither what is monitored nor the loss became better.

    And the rate is half of its highest or more, with a tenth of the run still to go: a run that has its rate lowered,
    or is about to end, has converged. One that overfits has a loss that falls; a game has none that must.
    """
    scores, steps = (course.validations.get(name, []) for name in ("monitor", "step"))
    losses, rates = course.lines.get("rec_loss") or course.lines.get("loss") or [], course.lines.get("rate") or [0.0]
    if len(scores) <= VALIDATIONS or "g_loss" in course.lines or rates[-1] < max(rates) / 2:
        return None
    best = 0
    for number, score in enumerate(scores):
        best = number if score < scores[best] - 1e-3 * abs(scores[best]) else best
    since = (course.step - steps[best]) / course.steps
    if len(scores) - 1 - best < VALIDATIONS or since < STALLED or course.step > LATE * course.steps:
        return None
    lines = losses[-round(since * course.lines_planned) :] if since else []
    if len(lines) < 2 * FEWEST:
        return None
    sooner, later = statistics.median(lines[: len(lines) // 2]), statistics.median(lines[len(lines) // 2 :])
    if later < sooner - 0.01 * abs(sooner):
        return None
    return f"{course.monitor} is no better since step {steps[best]:.0f}, nor is the loss, at a rate that is still high"


VALIDATION_RULES = (
    codebook_collapse,
    codebook_slow_death,
    mode_collapse,
    worse_than_copying,
    blur,
    content_lost,
    posterior_collapse,
    topic_collapse,
    plateau,
)
