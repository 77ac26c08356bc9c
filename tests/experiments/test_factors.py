"""Differing settings and their effects, against brute force over random tables of runs."""

import itertools
import random
import statistics
from pathlib import Path

import pytest

from vqlab.experiments.factors import differing, effects, factors, repeats
from vqlab.experiments.runs import MetricsLog, Run


def run(value=0.0, steps=0, status="interrupted", **settings):
    settings = {"model": "VQVAE"} | {name.replace("__", "."): value for name, value in settings.items()}
    log = MetricsLog({"val/loss": [(1, value)]}, [(steps, 1.0)])
    return Run(Path("runs/x"), str(settings), settings, log, status=status)


FSQ, VECTOR = {"model__quantizer": "FSQ"}, {"model__quantizer": "VectorQuantizer", "model__quantizer__dim": 8}
UNLIKE = {"seed_everything": (0, 1), "data__seed": (0, 1), "name": "ab", "wandb__mode": "xy", "model__beta": (1, 2)}


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        ([run(**{name: values[i] for name, values in UNLIKE.items()}) for i in (0, 1)], ["model.beta"]),
        ([run(model__beta=1), run(model__beta=2), Run(Path("damaged"))], ["model.beta"]),
        ([], []),
        ([run(**FSQ, model__quantizer__levels=[8, 5]), run(**VECTOR)], ["model.quantizer"]),
        ([run(**FSQ, model__quantizer__levels=[8, 5]), *(run(**VECTOR, model__quantizer__codes=k) for k in (64, 512))],
         ["model.quantizer", "model.quantizer.codes"]),
        ([run(model__extra=1), run()], ["model.extra"]),
        ([run(schedule__kind="cosine", schedule__warmup=5), run(schedule=None)], ["schedule"]),
    ],
)  # fmt: skip
def test_differing_settings(runs, names):
    assert differing(runs) == names


def test_settings_that_always_differ_together_are_one_factor():
    runs = [run(a__x=x, b__x=x * 10, c__y=y) for x in (1, 2, 3) for y in ("p", "q")]
    assert factors(runs) == {"a.x and b.x": ["1, 10"] * 2 + ["2, 20"] * 2 + ["3, 30"] * 2, "y": ["p", "q"] * 3}
    assert [*factors([run(**{f"m__{name}": i for name in "pqrst"}) for i in (1, 2)])] == ["p and q and 3 more"]


@pytest.mark.parametrize(
    ("steps_and_seeds", "groups"),
    [
        ([(840, 0), (160, 1)], [1, 1]),
        ([(840, 0), (840, 0)], [1, 1]),
        ([(840, 0), (840, 1)], [2]),
        ([(840, 0), (840, 1), (840, 0), (160, 2)], [2, 1, 1]),
    ],
)
def test_repeats_have_equal_settings_equal_steps_and_different_seeds(steps_and_seeds, groups):
    runs = [run(steps=steps, model__lr=1, seed_everything=seed) for steps, seed in steps_and_seeds]
    damaged = [Run(Path("x"), "x"), Run(Path("y"), "y")]
    assert [len(group) for group in repeats([*runs, *damaged])] == [*groups, 1, 1]


@pytest.mark.parametrize(
    ("one", "two", "pairs"),
    [((840, "interrupted"), (160, "interrupted"), 0), ((840, "finished"), (160, "running"), 0),
     ((160, "interrupted"), (160, "failed"), 1), ((840, "finished"), (420, "finished"), 1)],
)  # fmt: skip
def test_pairs_have_equal_steps_unless_both_are_finished(one, two, pairs):
    (effect,) = effects([run(1.0, *one, m__k=1), run(2.0, *two, m__k=2)], "val/loss")
    assert len(effect.differences) == pairs


@pytest.mark.parametrize("seed", range(3))
def test_effects_equal_brute_force_over_all_pairs(seed):
    draw = random.Random(seed)
    table = list(itertools.product([1, 10, 2], ["relu", "tanh"], range(3)))
    runs = [run(draw.gauss(0, 1), m__k=k, m__act=act, seed_everything=s) for k, act, s in draw.sample(table, 14)]
    found = effects(runs, "val/loss")
    assert len(found) == 2
    for effect in filter(lambda effect: effect.differences, found):
        name = f"m.{effect.factor}"
        steps = []
        for low, high in itertools.combinations(sorted({r.settings[name] for r in runs}), 2):
            differences = []
            for a, b in itertools.permutations(runs, 2):
                others = [{k: v for k, v in r.settings.items() if k != name} for r in (a, b)]
                if a.settings[name] == low and b.settings[name] == high and others[0] == others[1]:
                    differences.append(b.value("val/loss") - a.value("val/loss"))
            if differences:
                steps.append((str(low), str(high), sorted(differences)))
        largest = max(steps, key=lambda step: abs(statistics.fmean(step[2])))
        assert (effect.low, effect.high, pytest.approx(sorted(effect.differences))) == largest


def test_levels_are_sorted_as_numbers_and_a_factor_may_have_no_pair():
    (effect,) = effects([run(k, m__k=k, seed_everything=0) for k in (512, 64, 1024)], "val/loss")
    assert effect == ("k", "64", "1024", [960])
    found = effects([run(1, a=1, b=1), run(2, a=2, b=2), run(3, a=1, b=2)], "val/loss")
    assert {(effect.factor, *effect.differences) for effect in found} == {("a", -1), ("b", 2)}
    found = effects([run(1, a=1, b=1), run(2, a=2, b=2), run(3, a=3, b=2)], "val/loss")
    assert [(effect.factor, len(effect.differences)) for effect in found] == [("a", 1), ("b", 0)]


def test_pairs_have_equal_seeds_and_finite_values():
    (effect,) = effects([run(100 * s + lr, m__lr=lr, seed_everything=s) for lr in (1, 2) for s in range(4)], "val/loss")
    assert effect.differences == [1] * 4
    values = [(1, 0, 1.0), (2, 0, float("nan")), (1, 1, 1.0), (2, 1, 3.0)]
    (effect,) = effects([run(v, m__lr=lr, seed_everything=s) for lr, s, v in values], "val/loss")
    assert effect.differences == [2.0]
