"""Settings by dotted name."""

import pytest
import yaml

from vqlab.experiments.settings import as_flag, equal, flatten, overlay, stack

CONFIG = {
    "model": {
        "class_path": "vqlab.models.vq.vqvae.VQVAE",
        "init_args": {"quantizer": {"class_path": "FSQ", "init_args": {"levels": [8, 5]}}, "schedule": None, "lr": 0.1},
    },
    "trainer": {"max_steps": 7, "callbacks": {}},
}
FLAT = {
    "model": "VQVAE",
    "model.quantizer": "FSQ",
    "model.quantizer.levels": [8, 5],
    "model.schedule": None,
    "model.lr": 0.1,
    "trainer.max_steps": 7,
    "trainer.callbacks": {},
}


def test_flatten_a_config():
    assert flatten(CONFIG) == FLAT


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"model.quantizer": "VectorQuantizer"}, {"model.quantizer.levels"}),
        ({"model.quantizer": "FSQ"}, set()),
        ({"model.quantizer": None}, {"model.quantizer.levels"}),
        ({"model": "JSA"}, {name for name in FLAT if name.startswith("model.")}),
    ],
)
def test_new_class_removes_the_options_of_the_old_class(change, lost):
    assert overlay(FLAT, change) == {name: value for name, value in FLAT.items() if name not in lost} | change


def test_class_and_its_options_in_any_order():
    changes = {"model.quantizer.num_embeddings": 3, "model.quantizer": "VectorQuantizer"}
    found = overlay(FLAT, changes)
    assert found["model.quantizer.num_embeddings"] == 3
    assert "model.quantizer.levels" not in found
    assert list(stack(changes)) == ["model.quantizer", "model.quantizer.num_embeddings"]
    assert list(stack({"model.quantizer.seed": 1}, changes)) == ["model.quantizer.seed", *stack(changes)]


@pytest.mark.parametrize("value", [None, True, 3, 1e-5, 1e22, [8, 5.5], {"kind": "cosine"}, "relu"])
def test_flag_has_the_value(value):
    text = as_flag("x", value).removeprefix("--x=")
    assert equal(text, value)
    assert isinstance(value, float) or yaml.safe_load(text) == value


@pytest.mark.parametrize(
    ("a", "b"),
    [("1e-3", "0.0010001"), (None, 0), ("null", "none"), ([1, 2], [1, 2, 3]), ("a.npz", "b.npz"), (True, 1.5)],
)
def test_different_values_are_not_equal(a, b):
    assert not equal(a, b)
    assert not equal(b, a)
