"""Each rule finds what is planted within a tenth of the run, and leaves alone what looks like it."""

import math
import random

import pytest

from vqlab.callbacks.health.history import RunHistory, Thresholds, remember
from vqlab.callbacks.health.training_rules import GRADIENT_RULES, LINE_RULES
from vqlab.callbacks.health.validation_rules import VALIDATION_RULES

STEPS, EVERY, VALIDATE = 2000, 10, 50
ONSET = 1000


def falling(step):
    """A loss with 10 % of noise."""
    return (0.05 + math.exp(-step / 300)) * random.Random(step).uniform(0.9, 1.1)


def verdicts(line=None, validation=None, **planned):
    """Return the step of each verdict on a run whose figures are functions of the step, one value or one per figure."""
    course, limits, said = RunHistory(**{"steps": STEPS, "lines_planned": STEPS / EVERY, **planned}), Thresholds(), {}

    def judge(rules):
        for rule in rules:
            if rule.event not in said and rule.evidence(course, limits):
                said[rule.event] = course.step

    for course.step in range(EVERY, STEPS + 1, EVERY):
        course.add({"rate": 1e-3, "loss": falling(course.step)} | (line(course.step) if line else {}))
        judge((*GRADIENT_RULES, *LINE_RULES))
        if course.step % VALIDATE == 0:
            found = validation(course.step) if validation else {}
            remember(course.validations, {"step": float(course.step), **found})
            judge(VALIDATION_RULES)
    return said


def ill(step, healthy, planted):
    return planted if step > ONSET else healthy


PLANTED = {
    "loss_oscillation": lambda s: {"loss": 1 + ill(s, 0.02, 0.6) * (-1) ** (s // EVERY)},
    "loss_divergence": lambda s: {"loss": falling(s) * ill(s, 1, 1.02 ** min(200, (s - ONSET)))},
    "codebook_collapse": lambda s: {"codebook_usage": ill(s, 0.9, 0.1), "perplexity": 50.0},
    "exploding_gradient": lambda s: {"grad_norm": ill(s, 1.0, 200.0)},
    "vanishing_gradient": lambda s: {"grad_norm/encoder": ill(s, 1.0, 1e-6), "grad_norm/decoder": 1.0},
    "proposal_collapse": lambda s: {"accept_rate_cached": ill(s, 0.06, 0.0), "known_chains": 1.0, "chain_age": 9.0},
    "posterior_collapse": lambda s: {"accept_rate": ill(s, 0.2, 1.0)},
    "learning_rate_too_high": lambda s: {"update_ratio": ill(s, 0.01, 0.5)},
    "discriminator_too_strong": lambda s: {
        "p_real": ill(s, 0.7, 1),
        "p_fake": 0.0,
        "reals_passed": 1,
        "fakes_caught": 1,
    },
    "discriminator_too_weak": lambda s: {
        "p_real": 0.5,
        "p_fake": 0.5,
        "reals_passed": 0.5,
        "fakes_caught": ill(s, 0.9, 0.5),
    },
}
PLANTED_IN_VALIDATION = {
    "codebook_slow_death": lambda s: {"codebook_usage": ill(s, 0.9, 0.9 - (s - ONSET) / 900), "perplexity": 50.0},
    "codebook_collapse": lambda s: {"codebook_usage": ill(s, 0.9, 0.1), "perplexity": 50.0},
    "mode_collapse": lambda s: {"diversity": ill(s, 0.9, 0.1)},
    "posterior_collapse": lambda s: {"mutual_information": ill(s, 0.5, 0.001)},
    "topic_collapse": lambda s: {"topic_redundancy": ill(s, 0.1, 0.9), "topic_diversity": 0.9, "topic_usage": 1.0},
    "blur": lambda s: {"l1_gain": 0.3, "grey": ill(s, 1.1, 3.0), "retrieval": 1.0, "retrieval_identity": 1.0},
    "content_lost": lambda s: {"l1_gain": 0.3, "grey": 1.0, "retrieval": ill(s, 1.0, 0.5), "retrieval_identity": 1.0},
    "worse_than_copying": lambda s: {
        "l1_gain": ill(s, 0.3, -0.1),
        "grey": 1.0,
        "retrieval": 1.0,
        "retrieval_identity": 1.0,
    },
}


@pytest.mark.parametrize("event", PLANTED)
def test_what_is_planted_in_the_training_is_found(event):
    said = verdicts(PLANTED[event], num_embeddings=100)
    assert set(said) - {"loss_oscillation"} <= {event}, "a loss that rises spreads, too"
    assert ONSET < said[event] <= ONSET + STEPS // 10


@pytest.mark.parametrize("event", PLANTED_IN_VALIDATION)
def test_what_is_planted_in_the_validations_is_found(event):
    said = verdicts(None, PLANTED_IN_VALIDATION[event], num_embeddings=100)
    assert next(iter(said)) == event
    assert ONSET < said[event] <= ONSET + STEPS // 10
    assert set(said) <= {event, "codebook_collapse"}, "where a slow death ends"


def test_a_rate_that_is_too_low_is_found_from_the_start_and_a_warm_up_is_waited_for():
    assert verdicts(lambda s: {"update_ratio": 1e-8}) == {"learning_rate_too_low": 200}
    warm = {"update_ratio": lambda s: 1e-9 * s, "rate": lambda s: s / STEPS}
    assert verdicts(lambda s: {name: value(s) for name, value in warm.items()}) == {}
    assert verdicts(lambda s: {"update_ratio": 1e-3 * max(0, 1 - s / 1500) + 1e-9}) == {}, "a schedule's end"


def stalled(line=None, validation=None):
    """A run that does not get better after step 600."""
    figures = {"loss": 0.05, **(line or {})}
    score = validation or (lambda s: 0.05 + math.exp(-min(s, 600) / 100))
    return verdicts(
        lambda s: {name: value(s) if callable(value) else value for name, value in figures.items()},
        lambda s: {"monitor": score(s)},
    )


def test_a_plateau_is_found_when_a_third_of_the_run_has_passed():
    (step,) = stalled().values()
    assert 0 <= step - 600 - STEPS / 3 <= VALIDATE


@pytest.mark.parametrize(
    "reason",
    [
        {"line": {"rate": lambda s: 1e-3 if s < 900 else 1e-4}},  # lowered
        {"line": {"loss": falling}, "validation": lambda s: 0.2 + abs(s - 600) / 1000},  # overfits
        {"line": {"g_loss": 1.0}},  # a game
        {"validation": lambda s: math.exp(-s / 1500)},  # gets better
        {"line": {}, "validation": lambda s: math.exp(-min(s, 1150) / 300)},  # has converged when little is left to do
    ],
)
def test_what_is_no_plateau(reason):
    if "line" not in reason:
        reason["line"] = {"loss": falling}
    assert stalled(**reason) == {}


@pytest.mark.parametrize(
    "line",
    [
        lambda s: {"loss": falling(s) * (2 if s == ONSET else 1)},  # a spike
        lambda s: {"loss": falling(s) * ill(s, 1, 1.5)},  # a discriminator begins to be felt
        lambda s: {"loss": 10 - s / 100},  # a likelihood, that turns negative
        lambda s: {"loss": 100 * (1 + s / 100), "rec_loss": falling(s), "sigma": 1 / s},  # sigma is annealed
        lambda s: {"grad_norm/encoder": math.exp(-s / 200), "grad_norm": math.exp(-s / 200)},  # convergence
        lambda s: {"accept_rate": 0.202, "accept_rate_cached": 0.0, "known_chains": 0.0},  # no cache
        lambda s: {"accept_rate_cached": 0.01, "known_chains": 1.0, "chain_age": 3.0},
        lambda s: {"update_ratio": ill(s, 0.01, 0.5) if s % 50 == 0 else 0.05},  # a critic that is clipped
    ],
)
def test_what_looks_ill_and_is_not(line):
    assert verdicts(line) == {}


@pytest.mark.parametrize(
    "validation",
    [
        lambda s: {"codebook_usage": 0.5 + 0.5 * math.exp(-s / 300), "perplexity": 50.0},  # settles
        lambda s: {"codebook_usage": 0.6 + 0.3 * random.Random(s).random(), "perplexity": 50.0},
        lambda s: {"topic_redundancy": 0.44, "topic_diversity": 0.17, "topic_usage": 0.95},
        lambda s: {"topic_redundancy": 0.9 if s == 1500 else 0.1, "topic_diversity": 0.9},  # one may pass
        lambda s: {"mutual_information": 0.001 if s == 1500 else 0.1},
    ],
)
def test_what_looks_ill_in_a_validation_and_is_not(validation):
    assert verdicts(None, validation, num_embeddings=100) == {}


def test_a_proposal_that_is_the_posterior_is_no_collapse():
    assert verdicts(lambda s: {"accept_rate": 1.0}, lambda s: {"mutual_information": 0.7}) == {}


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"topic_diversity": 0.1}, "10% of the topics' words"),
        ({"topic_usage": 0.3}, "30% of the topics are dominant"),
    ],
)
def test_topics_that_are_few(figures, words):
    course = RunHistory(step=2000, validations={"step": [1500.0, 2000.0], **{k: [v, v] for k, v in figures.items()}})
    (rule,) = (rule for rule in VALIDATION_RULES if rule.event == "topic_collapse")
    assert words in rule.evidence(course, Thresholds())


def test_short_and_endless_runs():
    assert [RunHistory(lines_planned=n).window for n in (3, 200, 1000, math.inf)] == [5, 10, 20, 20]
    stuck = verdicts(PLANTED["vanishing_gradient"], steps=math.inf, lines_planned=math.inf)
    assert list(stuck) == ["vanishing_gradient"]
