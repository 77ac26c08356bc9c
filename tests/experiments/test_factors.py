"""What differs, and what it did: against brute force over random tables of runs."""

import itertools
import random
import statistics
from pathlib import Path

import pytest
import scipy.stats

from vqlab.experiments.factors import columns, differing, effects, factors, repeats, student_p, value_of
from vqlab.experiments.metrics_log import MetricsLog
from vqlab.experiments.runs import Run


def run(value=0.0, **settings):
    settings = {"model": "VQVAE", "checkpoint.monitor": "val/loss"} | {
        k.replace("__", "."): v for k, v in settings.items()
    }
    return Run(Path("runs/x"), str(settings), settings, MetricsLog({"val/loss": [(1, value)]}))


def value(run):
    return run.value("val/loss")


def test_only_what_differs_and_matters_is_named():
    runs = [
        run(model__lr=0.1, model__beta=1, seed_everything=0, data__seed=0, name="a", wandb__mode="x"),
        run(model__lr=0.1, model__beta=2, seed_everything=1, data__seed=1, name="b", wandb__mode="y"),
    ]
    assert differing(runs) == ["model.beta"]
    assert differing([*runs, Run(Path("damaged"))]) == ["model.beta"]
    assert differing(runs[:1]) == differing([]) == []


def test_options_that_follow_from_another_class_are_left_out_unless_they_differ_within_it():
    fsq = {"model__quantizer": "FSQ"}
    vector = {"model__quantizer": "VectorQuantizer", "model__quantizer__dim": 8}
    runs = [
        run(**fsq, model__quantizer__levels=[8, 5]),
        run(**vector, model__quantizer__codes=64),
        run(**vector, model__quantizer__codes=512),
    ]
    assert differing(runs) == ["model.quantizer", "model.quantizer.codes"]
    assert differing([run(model__extra=1), run()]) == ["model.extra"]


def test_settings_that_always_differ_together_are_one_factor():
    runs = [run(a__x=x, b__x=x * 10, c__y=y) for x in (1, 2, 3) for y in ("p", "q")]
    assert [(factor.names, factor.label) for factor in factors(runs)] == [
        (("a.x", "b.x"), "a.x and b.x"),
        (("c.y",), "y"),
    ]


def test_settings_with_the_same_values_are_one_column():
    runs = [run(enc__norm=x, dec__norm=x, enc__dim=d) for x, d in (("batch", 8), ("none", 8), ("none", 4))]
    assert columns(runs) == {"enc.norm": ["enc.norm", "dec.norm"], "enc.dim": ["enc.dim"]}
    assert [factor.label for factor in factors(runs)] == ["enc.norm", "dim"]


def test_a_group_of_options_that_some_runs_lack_is_one_setting():
    runs = [run(schedule__kind="cosine", schedule__warmup=5), run(schedule=None)]
    assert differing(runs) == ["schedule"]
    assert [value_of(r, "schedule") for r in runs] == ["cosine", "null"]


def test_repeats_differ_in_their_seeds_alone():
    runs = [run(model__lr=lr, seed_everything=s, data__seed=s) for lr in (1, 2) for s in range(3)]
    damaged = [Run(Path("x"), "x"), Run(Path("y"), "y")]
    groups = repeats([*runs, *damaged])
    assert [len(group) for group in groups] == [3, 3, 1, 1]
    assert {r.settings["model.lr"] for r in groups[0]} == {1}


def at_step(steps, value=0.0, status="unfinished", **settings):
    found = run(value, **settings)
    found.log.times, found.status = [(steps, 1.0)], status
    return found


@pytest.mark.parametrize(
    ("steps_and_seeds", "groups"),
    [
        ([(840, 0), (160, 0)], [1, 1]),
        ([(840, 0), (160, 1)], [1, 1]),
        ([(840, 0), (840, 0)], [1, 1]),
        ([(840, 0), (840, 1)], [2]),
        ([(840, 0), (840, 1), (840, 0), (160, 2)], [2, 1, 1]),
    ],
)
def test_repeats_have_different_seeds_and_equal_steps(steps_and_seeds, groups):
    runs = [at_step(steps, model__lr=1, seed_everything=seed) for steps, seed in steps_and_seeds]
    assert [len(group) for group in repeats(runs)] == groups


@pytest.mark.parametrize(
    ("one", "two", "pairs"),
    [((840, "unfinished"), (160, "unfinished"), 0), ((840, "finished"), (160, "running"), 0),
     ((160, "unfinished"), (160, "failed"), 1), ((840, "finished"), (420, "finished"), 1)],
)  # fmt: skip
def test_runs_make_a_pair_at_equal_steps_unless_both_are_finished(one, two, pairs):
    runs = [at_step(one[0], 1.0, one[1], m__k=1), at_step(two[0], 2.0, two[1], m__k=2)]
    assert sum(effect.pairs for effect in effects(runs, value)[0]) == pairs


@pytest.mark.parametrize("seed", range(5))
def test_effects_are_the_means_over_pairs_that_differ_in_nothing_else(seed):
    draw = random.Random(seed)
    table = list(itertools.product([1, 10, 2], ["relu", "tanh"], range(3)))
    kept = draw.sample(table, 14)
    runs = [run(draw.gauss(0, 1), m__k=k, m__act=act, seed_everything=s) for k, act, s in kept]
    found, untold = effects(runs, value)
    for effect in found:
        name = effect.factor.names[0]
        best = None
        for low, high in itertools.combinations(sorted({r.settings[name] for r in runs}), 2):
            pairs = []
            for a, b in itertools.permutations(runs, 2):
                others = [{k: v for k, v in r.settings.items() if k != name} for r in (a, b)]
                if a.settings[name] == low and b.settings[name] == high and others[0] == others[1]:
                    pairs.append((value(a), value(b)))
            if pairs:
                step = statistics.fmean(b - a for a, b in pairs)
                if best is None or abs(step) > abs(best[0]):
                    best = step, pairs, str(low), str(high)
        step, pairs, low, high = best
        assert (effect.low, effect.high, effect.pairs) == (low, high, len(pairs))
        assert effect.difference == pytest.approx(step)
        assert effect.mean_low == pytest.approx(statistics.fmean(a for a, _ in pairs))
        if len(pairs) > 1:
            assert effect.spread == pytest.approx(statistics.stdev(b - a for a, b in pairs))
            p = scipy.stats.ttest_rel(*zip(*pairs, strict=True)).pvalue
            assert effect.is_clear == (p * effect.tried < 0.05)
        else:
            assert effect.spread is None
            assert not effect.is_clear
    assert len(found) + len(untold) == 2


def test_numbers_are_compared_in_their_order_and_what_has_no_pair_is_said_to_be_unknown():
    runs = [run(k, m__k=k, seed_everything=0) for k in (512, 64, 1024)]
    (effect,), untold = effects(runs, value)
    assert (effect.low, effect.high, effect.difference, untold) == ("64", "1024", 960, [])
    found, untold = effects([run(1, a=1, b=1), run(2, a=2, b=2), run(3, a=1, b=2)], value)
    assert {(e.factor.label, e.difference) for e in found} == {("a", -1), ("b", 2)}
    found, untold = effects([run(1, a=1, b=1), run(2, a=2, b=2), run(3, a=3, b=2)], value)
    assert [e.factor.label for e in found] == ["a"]
    assert [factor.label for factor in untold] == ["b"]


def test_pairs_share_the_seed():
    """What the split adds to both sides of a pair is no spread of the difference."""
    runs = [run(100 * s + lr, m__lr=lr, seed_everything=s) for lr in (1, 2) for s in range(4)]
    (effect,), _ = effects(runs, value)
    assert (effect.difference, effect.spread, effect.pairs) == (1, 0, 4)
    assert effect.is_clear


def test_values_that_are_not_finite_make_no_pair():
    runs = [
        run(v, m__lr=lr, seed_everything=s)
        for lr, s, v in [(1, 0, 1.0), (2, 0, float("nan")), (1, 1, 1.0), (2, 1, 3.0)]
    ]
    (effect,), _ = effects(runs, value)
    assert (effect.pairs, effect.difference) == (1, 2.0)


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30, 200])
def test_student(freedom):
    for t in (0.0, 0.5, 2.0, 4.0, 15.0):
        assert student_p(t, freedom) == pytest.approx(2 * scipy.stats.t.sf(t, freedom), rel=1e-3, abs=1e-9)
