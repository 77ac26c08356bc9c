"""Rules that look at each line of the log.

Where a docstring says "measured", it is of healthy and of ill runs of this library, and the threshold lies between.
"""

import statistics

from vqlab.callbacks.health.history import ENOUGH, RunHistory, Thresholds, detrended_spread, rule

PLAYERS = ("p_real", "p_fake", "reals_passed", "fakes_caught")
LOSSES = ("rec_loss", "loss", "l1")
DIVERGED = 2.0  # times its best
VANISHED = 1e-4  # of its median
STUCK = 1e-3  # of the proposals are accepted
ACCEPTED = 0.99  # of the proposals
INFORMED = 0.01  # nats that a position of the code tells
FAST, SLOW = 0.1, 1e-6  # change of a weight by a step, as a share of the weight
REVIVE = "set --model.quantizer.init=kmeans --model.quantizer.revive_after=16, or lower --model.lr"
SHARPEN = "set --model.likelihood.sigma=optimal, or lower --model.lr"


@rule("loss_oscillation", "lower --model.lr, or raise --data.batch_size")
def loss_oscillation(course: RunHistory, limits: Thresholds) -> str | None:
    """Over the last third of the log the loss spreads about its trend by more than ``oscillation`` of its mean."""
    losses = course.lines.get("loss", [])
    last_third = losses[-(len(losses) // 3) :]  # the first fall of the loss is no straight line
    spread = detrended_spread(last_third)
    if len(last_third) < ENOUGH or spread <= limits.oscillation:
        return None
    return f"train/loss varies by {spread:.0%} of its mean about its trend, over the last third of its log"


@rule("loss_divergence", "resume from best.ckpt with a lower --model.lr, or clip with {clip}=1")
def loss_divergence(course: RunHistory, limits: Thresholds) -> str | None:
    """Throughout a window the loss is above twice its best mean of such a window; measured: 1.1, diverging 6 and more.

    Its first line counts as well, because a loss may rise from there on.
    That a loss goes up and not down is the tuning playbook's sign of an unstable training (Godbole et al. 2023). Where
    sigma moves, likelihoods do not compare, and where they are negative, they have no double: errors do.
    """
    for name in LOSSES:
        earlier, recent, window = course.earlier(name), course.recent(name), course.window
        if len(earlier) < window or min(earlier) <= 0 or (name == "loss" and "sigma" in course.lines):
            continue
        means = (statistics.fmean(earlier[end - window : end]) for end in range(window, len(earlier) + 1))
        best = min(earlier[0], *means)
        if min(recent) > DIVERGED * best:
            return f"train/{name} stays above {min(recent):.3g}, {min(recent) / best:.1f} times its best"
    return None


@rule("codebook_collapse", REVIVE)
def codebook_collapse(course: RunHistory, limits: Thresholds) -> str | None:
    """Usage since the last line is below ``min_usage``, or perplexity below ``min_perplexity`` of K (see README)."""
    return unused_codes(course, limits, "train")


def unused_codes(course: RunHistory, limits: Thresholds, stage: str) -> str | None:
    """Say how few codes are used, if they are too few."""
    usage, perplexity = (course.latest(name, stage) for name in ("codebook_usage", "perplexity"))
    if usage is None or perplexity is None or course.step < limits.grace_steps:
        return None
    if usage >= limits.min_usage and perplexity >= limits.min_perplexity * course.num_embeddings:
        return None
    return f"{usage:.1%} of {course.num_embeddings} codes used, perplexity {perplexity:.1f} ({stage})"


@rule(
    "discriminator_too_strong",
    "lower --model.disc_lr, or set --model.spectral_norm=true or --model.objective=feature_matching",
)
def discriminator_too_strong(course: RunHistory, limits: Thresholds) -> str | None:
    """It is surer than ``certainty`` of both sorts of images: no gradient is left (Arjovsky and Bottou 2017)."""
    p_real, p_fake, *_ = players(course, limits) or (0.0, 1.0)
    if min(p_real, 1 - p_fake) <= limits.certainty:
        return None
    return f"D(x) is {p_real:.3f} and D(G(z)) {p_fake:.4f} over {ENOUGH} lines of the log"


@rule("discriminator_too_weak", "raise --model.disc_lr, or lower --model.lr or the discriminator's dropout or noise")
def discriminator_too_weak(course: RunHistory, limits: Thresholds) -> str | None:
    """It is right about less than ``blindness`` of both sorts; a coin is about half."""
    *_, passed, caught = players(course, limits) or (1.0, 1.0)
    if (passed + caught) / 2 >= limits.blindness:
        return None
    return f"it passes {passed:.0%} of the real images and catches {caught:.0%} of the generated ones"


def players(course: RunHistory, limits: Thresholds) -> list[float]:
    """Return the means of ``PLAYERS`` over the last lines, nothing before the game is to be judged."""
    figures = [course.lines.get(name, [])[-ENOUGH:] for name in PLAYERS]
    judged = course.step >= limits.gan_grace_steps and min(map(len, figures)) == ENOUGH
    return list(map(statistics.fmean, figures)) if judged else []


@rule("proposal_collapse", "set --model.likelihood.sigma=optimal, or raise --model.num_mis_steps or --model.smoothing")
def proposal_collapse(course: RunHistory, limits: Thresholds) -> str | None:
    """Chains that are kept accept less than 0.1 % of what q proposes; measured: 5 to 8 %.

    Chains that begin anew accept a fixed share, whatever the model (``jsa.record_rate``), and are not judged.
    """
    accepted, known = course.recent("accept_rate_cached"), course.recent("known_chains")
    if not accepted or not known or min(known) < 0.5 or course.step < limits.grace_steps:
        return None
    if (rate := statistics.fmean(accepted)) >= STUCK:
        return None
    age = course.latest("chain_age") or 0
    return f"the chains accept {rate:.2%} of the codes proposed, and stand for {age:.0f} visits"


@rule("posterior_collapse", SHARPEN)
def indifferent_posterior(course: RunHistory, limits: Thresholds) -> str | None:
    """All proposals are accepted: p(x, h) / q(h | x) is the same for all h. Measured: 45 % at first, then 20 %.

    A q that is the very posterior is accepted, too, but its codes tell something of the image.
    """
    accepted, told = course.recent("accept_rate"), course.latest("mutual_information", "val")
    if not accepted or (told or 0) >= INFORMED or course.step < limits.gan_grace_steps:
        return None
    rate = statistics.fmean(accepted)
    return f"the chains accept {rate:.1%} of the codes proposed, so the decoder heeds none" if rate > ACCEPTED else None


@rule("learning_rate_too_high", "lower --model.lr")
def learning_rate_too_high(course: RunHistory, limits: Thresholds) -> str | None:
    """Throughout a window steps change weights by 10 %, where 0.1 % is the rule.

    The rule is that of the CS231n notes (Karpathy, "Neural networks 3", ratio of updates to weights).
    Measured: 0.4 to 3 % of all models, at lr=1 270 %; single steps of a critic whose weights are clipped come to 90 %.
    """
    recent = course.recent("update_ratio")
    if not recent or min(recent) <= FAST:
        return None
    return f"a step changes the weights by {statistics.median(recent):.0%}, 0.1 % is usual"


@rule("learning_rate_too_low", "raise --model.lr")
def learning_rate_too_low(course: RunHistory, limits: Thresholds) -> str | None:
    """No step so far changed weights by a thousandth of that rule, and no warm-up is under way."""
    ratios, rates = course.lines.get("update_ratio", []), course.recent("rate")
    if not rates or rates[-1] > rates[0] or course.step < limits.grace_steps or not max(ratios, default=1.0) < SLOW:
        return None
    return f"no step changes the weights by more than {max(ratios):.1e} of them, 1e-3 is usual"


@rule("exploding_gradient", "lower --model.lr, or clip with {clip}=1")
def exploding_gradient(course: RunHistory, limits: Thresholds) -> str | None:
    """The gradient's norm is more than ``explosion`` times its median so far, or not finite."""
    *earlier, norm = course.lines.get("grad_norm") or [0.0]
    if len(earlier) < ENOUGH or norm <= limits.explosion * (usual := statistics.median(earlier)):
        return None
    return f"gradient norm {norm:.3g}, {norm / max(usual, 1e-12):.0f} times its median"


@rule(
    "vanishing_gradient",
    "begin anew with a lower --model.lr or --model.schedule.warmup_steps=500: units that have died do not learn",
)
def vanishing_gradient(course: RunHistory, limits: Thresholds) -> str | None:
    """Throughout a window the gradient of a part is less than 1e-4 of its median before.

    No gradient reaches it any more (Glorot and Bengio 2010). Convergence leaves more: batches differ.
    """
    for name in (name for name in course.lines if name.startswith("grad_norm/")):
        earlier, recent = course.earlier(name), course.recent(name)
        if len(earlier) >= ENOUGH and max(recent) < VANISHED * (usual := statistics.median(earlier)):
            return f"{name} is at most {max(recent):.1e} over {len(recent)} lines of the log, before {usual:.1e}"
    return None


LINE_RULES = (
    loss_oscillation,
    loss_divergence,
    codebook_collapse,
    discriminator_too_strong,
    discriminator_too_weak,
    proposal_collapse,
    indifferent_posterior,
    learning_rate_too_high,
    learning_rate_too_low,
)
GRADIENT_RULES = (exploding_gradient, vanishing_gradient)  # before the step
