"""Each rule finds a planted problem within a tenth of the run, and does not fire on what resembles it."""

import math
import random

import pytest

from vqlab.callbacks.health.history import RunHistory, Thresholds
from vqlab.callbacks.health.rules import RULES, topic_collapse

STEPS, EVERY, VALIDATE = 2000, 10, 50
ONSET = 1000


def falling(step):
    """A loss with 10 % of noise."""
    return (0.05 + math.exp(-step / 300)) * random.Random(step).uniform(0.9, 1.1)


def events(line=None, validation=None, **planned):
    """Return the step of each event in a run whose metrics are functions of the step."""
    history, found = RunHistory(**{"steps": STEPS, "lines_planned": STEPS / EVERY, **planned}), {}

    def check(*when):
        for rule in RULES:
            if rule.when in when and rule.event not in found and rule.evidence(history, Thresholds()):
                found[rule.event] = history.step

    for history.step in range(EVERY, STEPS + 1, EVERY):
        history.add({"rate": 1e-3, "loss": falling(history.step)} | (line(history.step) if line else {}))
        check("gradient", "line")
        if history.step % VALIDATE == 0:
            history.add({"step": float(history.step), **(validation(history.step) if validation else {})}, "val")
            check("validation")
    return found


def from_onset(step, healthy, planted):
    return planted if step > ONSET else healthy


PLANTED = {
    "loss_oscillation": lambda s: {"loss": 1 + from_onset(s, 0.02, 0.6) * (-1) ** (s // EVERY)},
    "loss_divergence": lambda s: {"loss": falling(s) * from_onset(s, 1, 1.02 ** min(200, (s - ONSET)))},
    "codebook_collapse": lambda s: {"codebook_usage": from_onset(s, 0.9, 0.1), "perplexity": 50.0},
    "exploding_gradient": lambda s: {"grad_norm": from_onset(s, 1.0, 200.0)},
    "vanishing_gradient": lambda s: {"grad_norm/encoder": from_onset(s, 1.0, 1e-6), "grad_norm/decoder": 1.0},
    "proposal_collapse": lambda s: {
        "accept_rate_cached": from_onset(s, 0.06, 0.0),
        "known_chains": 1.0,
        "chain_age": 9.0,
    },
    "posterior_collapse": lambda s: {"accept_rate": from_onset(s, 0.2, 1.0)},
    "learning_rate_too_high": lambda s: {"update_ratio": from_onset(s, 0.01, 0.5)},
    "discriminator_too_strong": lambda s: {
        "p_real": from_onset(s, 0.7, 1),
        "p_fake": 0.0,
        "reals_passed": 1,
        "fakes_caught": 1,
    },
    "discriminator_too_weak": lambda s: {
        "p_real": 0.5,
        "p_fake": 0.5,
        "reals_passed": 0.5,
        "fakes_caught": from_onset(s, 0.9, 0.5),
    },
}
GLYPHS = {"l1_gain": 0.3, "grey": 1.0, "retrieval": 1.0, "retrieval_identity": 1.0}
TOPICS = {"topic_redundancy": 0.1, "topic_diversity": 0.9, "topic_usage": 1.0}
PLANTED_IN_VALIDATION = {
    "codebook_slow_death": lambda s: {
        "codebook_usage": from_onset(s, 0.9, 0.9 - (s - ONSET) / 900),
        "perplexity": 50.0,
    },
    "codebook_collapse": lambda s: {"codebook_usage": from_onset(s, 0.9, 0.1), "perplexity": 50.0},
    "mode_collapse": lambda s: {"diversity": from_onset(s, 0.9, 0.1)},
    "posterior_collapse": lambda s: {"mutual_information": from_onset(s, 0.5, 0.001)},
    "topic_collapse": lambda s: {**TOPICS, "topic_redundancy": from_onset(s, 0.1, 0.9)},
    "blur": lambda s: {**GLYPHS, "grey": from_onset(s, 1.1, 3.0)},
    "content_lost": lambda s: {**GLYPHS, "retrieval": from_onset(s, 1.0, 0.5)},
    "worse_than_copying": lambda s: {**GLYPHS, "l1_gain": from_onset(s, 0.3, -0.1)},
}


@pytest.mark.parametrize("event", PLANTED)
def test_a_problem_planted_in_training_is_found(event):
    found = events(PLANTED[event], num_embeddings=100)
    assert set(found) - {"loss_oscillation"} <= {event}, "a loss that rises spreads, too"
    assert ONSET < found[event] <= ONSET + STEPS // 10


@pytest.mark.parametrize("event", PLANTED_IN_VALIDATION)
def test_a_problem_planted_in_validation_is_found(event):
    found = events(None, PLANTED_IN_VALIDATION[event], num_embeddings=100)
    assert next(iter(found)) == event
    assert ONSET < found[event] <= ONSET + STEPS // 10
    assert set(found) <= {event, "codebook_collapse"}, "where a slow death ends"


def test_a_rate_that_is_too_low_is_found_unless_it_is_scheduled():
    assert events(lambda s: {"update_ratio": 1e-8}) == {"learning_rate_too_low": 200}
    assert events(lambda s: {"update_ratio": 1e-9 * s, "rate": s / STEPS}) == {}, "a warm-up"
    assert events(lambda s: {"update_ratio": 1e-3 * max(0, 1 - s / 1500) + 1e-9}) == {}, "a schedule's end"


def stalled_score(step):
    """No improvement after step 600."""
    return 0.05 + math.exp(-min(step, 600) / 100)


@pytest.mark.parametrize(
    ("line", "score", "found"),
    [
        (lambda s: {"loss": 0.05}, stalled_score, True),
        (lambda s: {"loss": 0.05, "rate": 1e-3 if s < 900 else 1e-4}, stalled_score, False),  # a lowered rate
        (lambda s: {}, lambda s: 0.2 + abs(s - 600) / 1000, False),  # overfits
        (lambda s: {"loss": 0.05, "g_loss": 1.0}, stalled_score, False),  # adversarial
        (lambda s: {}, lambda s: math.exp(-s / 1500), False),  # improves
        (lambda s: {}, lambda s: math.exp(-min(s, 1150) / 300), False),  # converges shortly before the end
    ],
)
def test_plateau(line, score, found):
    steps = events(line, lambda s: {"monitor": score(s)})
    assert list(steps) == (["plateau"] if found else [])
    if found:
        assert 0 <= steps["plateau"] - 600 - STEPS / 3 <= VALIDATE, "when a third of the run has passed"


@pytest.mark.parametrize(
    "line",
    [
        lambda s: {"loss": falling(s) * (2 if s == ONSET else 1)},  # a spike
        lambda s: {"loss": falling(s) * from_onset(s, 1, 1.5)},  # the adversarial loss is switched on
        lambda s: {"loss": 10 - s / 100},  # a likelihood that becomes negative
        lambda s: {"loss": 100 * (1 + s / 100), "rec_loss": falling(s), "sigma": 1 / s},  # sigma is annealed
        lambda s: {"grad_norm/encoder": math.exp(-s / 200), "grad_norm": math.exp(-s / 200)},  # convergence
        lambda s: {"accept_rate": 0.202, "accept_rate_cached": 0.0, "known_chains": 0.0},  # no cache
        lambda s: {"accept_rate_cached": 0.01, "known_chains": 1.0, "chain_age": 3.0},
        lambda s: {"update_ratio": from_onset(s, 0.01, 0.5) if s % 50 == 0 else 0.05},  # a clipped critic
    ],
)
def test_healthy_training_lines_that_resemble_a_problem(line):
    assert events(line) == {}


@pytest.mark.parametrize(
    "validation",
    [
        lambda s: {"codebook_usage": 0.5 + 0.5 * math.exp(-s / 300), "perplexity": 50.0},  # settles
        lambda s: {"codebook_usage": 0.6 + 0.3 * random.Random(s).random(), "perplexity": 50.0},
        lambda s: {"topic_redundancy": 0.44, "topic_diversity": 0.17, "topic_usage": 0.95},
        lambda s: {"topic_redundancy": 0.9 if s == 1500 else 0.1, "topic_diversity": 0.9},  # one validation only
        lambda s: {"mutual_information": 0.001 if s == 1500 else 0.1},
    ],
)
def test_healthy_validations_that_resemble_a_problem(validation):
    assert events(None, validation, num_embeddings=100) == {}


def test_a_proposal_that_equals_the_posterior_is_no_collapse():
    assert events(lambda s: {"accept_rate": 1.0}, lambda s: {"mutual_information": 0.7}) == {}


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"topic_diversity": 0.1}, "10% of the topics' words"),
        ({"topic_usage": 0.3}, "30% of the topics are dominant"),
    ],
)
def test_few_distinct_or_used_topics(metrics, words):
    history = RunHistory(step=2000)
    for step in (1500.0, 2000.0):
        history.add({"step": step, **metrics}, "val")
    assert words in topic_collapse(history, Thresholds())


def test_short_and_endless_runs():
    assert [RunHistory(lines_planned=n).window for n in (3, 200, 1000, math.inf)] == [5, 10, 20, 20]
    found = events(PLANTED["vanishing_gradient"], steps=math.inf, lines_planned=math.inf)
    assert list(found) == ["vanishing_gradient"]
