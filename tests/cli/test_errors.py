"""A sound file is not called damaged where memory is short."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from tests.helpers.refusal import refused
from vqlab import MNIST
from vqlab.data.signals import records
from vqlab.data.text import bag_of_words
from vqlab.experiments import checkpoint_header as checkpoint_outline
from vqlab.fonts import font
from vqlab.interop.taming import read_taming
from vqlab.nn.backbone import Owner, read_features
from vqlab.training.checkpoint import read_checkpoint

FILE = Path("sound.npz")
READERS = {
    "checkpoint": (torch, "load", lambda: read_checkpoint(FILE)),
    "checkpoint's header": (checkpoint_outline, "open_header", lambda: checkpoint_outline.read_header(FILE)),
    "weights": (
        torch,
        "load",
        lambda: read_features(FILE, Owner("LPIPS", "--model.net", "--model.x=0"), is_cache=False),
    ),
    "taming": (torch.serialization, "get_unsafe_globals_in_checkpoint", lambda: read_taming(FILE)),
    "signals": (records, "_read_array", lambda: records.read_records(FILE)),
    "counts": (bag_of_words, "load_matrix", lambda: bag_of_words.read_counts(str(FILE), "path")),
    "labels": (np, "load", lambda: bag_of_words.read_labels(str(FILE), "labels", csr_matrix(np.eye(3)))),
    "font": (font, "TTFont", lambda: font.parse(b"\x00\x01\x00\x00", FILE, "font")),
    "images": (MNIST, "source", lambda: MNIST(path=str(FILE)).load_test()),
}
SHORT = [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")]


@pytest.mark.parametrize("error", SHORT, ids=["Python", "torch"])
@pytest.mark.parametrize("name", READERS)
def test_short_memory_is_not_called_damage(name, error, monkeypatch):
    def no_memory(*args, **options):
        raise error

    module, function, read = READERS[name]
    FILE.touch()
    monkeypatch.setattr(module, function, no_memory)
    with refused("not enough memory to read", FILE.name):
        read()
