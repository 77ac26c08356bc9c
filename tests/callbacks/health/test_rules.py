"""Each rule finds a problem within a tenth of the run, and reports no event for healthy metrics that resemble it."""

import math
import random

import pytest

from vqlab.callbacks.health.history import RunHistory, Thresholds, detrended_spread
from vqlab.callbacks.health.rules import HINTS, RULES

STEPS, EVERY, VALIDATE = 2000, 10, 50
ONSET = 1000
DISCRIMINATOR = {"p_real": 0.7, "p_fake": 0.3, "reals_passed": 0.9, "fakes_caught": 0.8}
GENERATED = {"diversity": 0.9, "classes_drawn": 9.0}
GLYPHS = {"l1_gain": 0.3, "grey": 1.0, "retrieval": 1.0, "retrieval_identity": 1.0}
TOPICS = {"topic_redundancy": 0.1, "topic_diversity": 0.9, "topic_usage": 1.0}
CHAINS = {"known_chains": 1.0, "chain_age": 9.0}


def falling(step):
    """A loss with 10 % of noise."""
    return (0.05 + math.exp(-step / 300)) * random.Random(step).uniform(0.9, 1.1)


def events(line=None, validation=None, **planned):
    """Return step and evidence of each event in a run whose metrics are functions of the step."""
    history = RunHistory(**{"steps": STEPS, "lines_planned": STEPS / EVERY, "num_classes": 10, **planned})
    found = {}
    for history.step in range(EVERY, STEPS + 1, EVERY):
        rules = [*RULES["gradient"], *RULES["line"]]
        history.add({"rate": 1e-3, "loss": falling(history.step)} | (line(history.step) if line else {}))
        if history.step % VALIDATE == 0:
            rules += RULES["validation"]
            history.add({"step": float(history.step), **(validation(history.step) if validation else {})}, "val")
        for rule in rules:
            for event, evidence in rule(history, Thresholds()):
                found.setdefault(event, (history.step, evidence))
    assert {*found} <= {*HINTS}
    return found


def at_onset(name, healthy, planted, **others):
    """Return a function of the step: the metric ``name`` changes, the others stay."""
    return lambda s: {**others, name: planted if s > ONSET else healthy}


PROBLEMS = [  # event, metrics of the training, words of the evidence
    ("loss_oscillation", lambda s: {"loss": 1 + (0.6 if s > ONSET else 0.02) * (-1) ** (s // EVERY)}, "of its mean"),
    ("loss_divergence", lambda s: {"loss": falling(s) * 1.02 ** min(200, max(0, s - ONSET))}, "times its best"),
    ("codebook_collapse", at_onset("codebook_usage", 0.9, 0.1, perplexity=50.0), "10.0% of 100 codes"),
    ("exploding_gradient", at_onset("grad_norm", 1.0, 200.0), "200 times its median"),
    ("vanishing_gradient", at_onset("grad_norm/encoder", 1.0, 1e-6), "grad_norm/encoder"),
    ("proposal_collapse", at_onset("accept_rate_cached", 0.06, 0.0, **CHAINS), "unchanged for 9 visits"),
    ("posterior_collapse", at_onset("accept_rate", 0.2, 1.0), "100.0% of the proposals"),
    ("learning_rate_too_high", at_onset("update_ratio", 0.01, 0.5), "by 50%"),
    ("discriminator_too_strong", at_onset("p_real", 0.7, 1.0, p_fake=0.0, reals_passed=1, fakes_caught=1), "is 1.000"),
    ("discriminator_too_weak", at_onset("fakes_caught", 0.9, 0.1, p_real=0.5, p_fake=0.5, reals_passed=0.9), "rejects"),
]
PROBLEMS_IN_VALIDATION = [
    ("codebook_slow_death", lambda s: {"codebook_usage": 0.9 - max(0, s - ONSET) / 900, "perplexity": 50.0}, "falls"),
    ("codebook_collapse", at_onset("codebook_usage", 0.9, 0.1, perplexity=50.0), "(val)"),
    ("mode_collapse", at_onset("diversity", 0.9, 0.1), "by 10%"),
    ("mode_collapse", at_onset("classes_drawn", 9.0, 1.2, diversity=0.9), "1.2 of 10 classes"),
    ("posterior_collapse", at_onset("mutual_information", 0.5, 0.001), "1.0e-03 nats"),
    ("topic_collapse", at_onset("topic_redundancy", 0.1, 0.9, **TOPICS), "share 90%"),
    ("topic_collapse", at_onset("topic_diversity", 0.9, 0.1), "10% of the topics' words"),
    ("topic_collapse", at_onset("topic_usage", 0.9, 0.3), "30% of the topics are dominant"),
    ("blur", at_onset("grey", 1.1, 3.0, **GLYPHS), "3.0 times"),
    ("content_lost", at_onset("retrieval", 1.0, 0.5, **GLYPHS), "50% of glyphs"),
    ("worse_than_copying", at_onset("l1_gain", 0.3, -0.2, **GLYPHS), "20% farther"),
]


@pytest.mark.parametrize(
    ("kind", "event", "metrics", "words"),
    [*(("line", *case) for case in PROBLEMS), *(("validation", *case) for case in PROBLEMS_IN_VALIDATION)],
)
def test_problem_is_found_within_a_tenth_of_the_run(kind, event, metrics, words):
    found = events(**{kind: metrics}, num_embeddings=100)
    assert ONSET < found[event][0] <= ONSET + STEPS // 10
    assert words in found[event][1]
    assert kind == "line" or next(iter(found)) == event
    # A rising loss also has a larger spread, and a slow death ends in a collapse.
    assert set(found) <= {event, {"line": "loss_oscillation", "validation": "codebook_collapse"}[kind]}


def test_low_learning_rate_is_found_unless_it_is_scheduled():
    found = events(lambda s: {"update_ratio": 1e-8})
    assert {event: step for event, (step, _) in found.items()} == {"learning_rate_too_low": 200}
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
def test_plateau_is_found_unless_the_run_has_converged_or_overfits(line, score, found):
    steps = events(line, lambda s: {"monitor": score(s)})
    assert list(steps) == (["plateau"] if found else [])
    if found:
        assert 0 <= steps["plateau"][0] - 600 - STEPS / 3 <= VALIDATE, "when a third of the run has passed"


HEALTHY = {
    "line": [
        lambda s: {"loss": falling(s) * (2 if s == ONSET else 1)},  # a spike
        lambda s: {"loss": falling(s) * (1.5 if s > ONSET else 1)},  # the adversarial loss is switched on
        lambda s: {"loss": 10 - s / 100},  # a likelihood that becomes negative
        lambda s: {"loss": 100 * (1 + s / 100), "rec_loss": falling(s), "sigma": 1 / s},  # sigma is annealed
        lambda s: {"grad_norm/encoder": math.exp(-s / 200), "grad_norm": math.exp(-s / 200)},  # convergence
        lambda s: {"accept_rate": 0.202, "accept_rate_cached": 0.0, "known_chains": 0.0},  # no cache
        lambda s: {"accept_rate_cached": 0.01, **CHAINS},
        lambda s: {"update_ratio": (0.5 if s > ONSET else 0.01) if s % 50 == 0 else 0.05},  # a clipped critic
        lambda s: {**DISCRIMINATOR, "p_real": 0.999},
        lambda s: {**DISCRIMINATOR, "p_real": 1.0, "p_fake": 0.0} if s < 900 else DISCRIMINATOR,  # in the grace steps
    ],
    "validation": [
        lambda s: {"codebook_usage": 0.5 + 0.5 * math.exp(-s / 300), "perplexity": 50.0},  # settles
        lambda s: {"codebook_usage": 0.6 + 0.3 * random.Random(s).random(), "perplexity": 50.0},
        lambda s: {"topic_redundancy": 0.44, "topic_diversity": 0.17, "topic_usage": 0.95},
        lambda s: {"topic_redundancy": 0.9 if s == 1500 else 0.1, "topic_diversity": 0.9},  # one validation only
        lambda s: {"mutual_information": 0.001 if s == 1500 else 0.1},
        lambda s: {**GENERATED, "diversity": 0.1 if s == 1500 else 0.9},
        lambda s: {**GLYPHS, "retrieval": 0.95},
    ],
}


@pytest.mark.parametrize(("kind", "metrics"), [(kind, metrics) for kind in HEALTHY for metrics in HEALTHY[kind]])
def test_healthy_metrics_that_resemble_a_problem_report_no_event(kind, metrics):
    assert events(**{kind: metrics}, num_embeddings=100) == {}


def test_proposal_that_equals_the_posterior_is_no_collapse():
    assert events(lambda s: {"accept_rate": 1.0}, lambda s: {"mutual_information": 0.7}) == {}


def test_window_of_short_and_endless_runs():
    assert [RunHistory(lines_planned=n).window for n in (3, 200, 1000, math.inf)] == [5, 10, 20, 20]
    found = events(at_onset("grad_norm/encoder", 1.0, 1e-6), steps=math.inf, lines_planned=math.inf)
    assert list(found) == ["vanishing_gradient"]


def test_detrended_spread():
    assert detrended_spread([5.0, 4.0, 3.0]) == pytest.approx(0)
    values = [10 + i / 10 + (1 if i % 2 else -1) for i in range(60)]
    assert detrended_spread(values) == pytest.approx(1 / 12.95, rel=0.01)
