"""New data of a trained model: converted to the format of the training data, or refused."""

import copy
import random
from pathlib import Path

import lightning
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix, save_npz

import vqlab
from tests.e2e.tiny import fails
from tests.helpers.bare import BARE
from tests.helpers.refusal import refused
from vqlab import BagOfWords, FontPairs, GANTopicModel, ImageArrays, ImageFolder, Signals, TextFile
from vqlab.cli.main import main
from vqlab.training.data_format import ENTRY, check_format, stored_format

GROUPS = [
    ["market", "stock", "bank", "price", "trade", "shares", "profit", "investor"],
    ["football", "match", "goal", "player", "league", "coach", "team", "season"],
    ["planet", "star", "orbit", "telescope", "galaxy", "moon", "comet", "rocket"],
]
TOPICS = ["--model=GANTopicModel", "--model.num_topics=3", "--data=TextFile", "--data.path=train.csv"]
OPTIONS = ["--data.min_df=1", "--data.max_df=1.0", "--data.max_vocab=24", "--data.batch_size=16"]
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
LAST = "runs/gantopicmodel/t/checkpoints/last.ckpt"


def write(name, count=60, more=(), label=str):
    """Write documents of three kinds, each with the additional words ``more``."""
    draw = random.Random(1)
    lines = [f"{' '.join([*draw.choices(GROUPS[i % 3], k=20), *more])},{label(i % 3)}" for i in range(count)]
    Path(name).write_text("\n".join(["text,label", *lines]) + "\n")


def proportions():
    with np.load("runs/gantopicmodel/t/codes.npz") as arrays:
        return arrays["proportions"], arrays["index"]


@pytest.fixture
def topics():
    write("train.csv", 150)
    main(["fit", *TOPICS, *OPTIONS, *QUIET, "--name=t", "--trainer.max_steps=60", "--trainer.limit_val_batches=0"])


def test_new_documents_are_counted_with_training_vocabulary(topics, capsys):
    write("new.csv", 150, more=["aardvark", "abacus", "zebra", "zeppelin"])
    main(["predict", f"--ckpt_path={LAST}"])
    assert len(proportions()[1]) == 15, "the held-out part of the training data"
    write("again.csv", 150)
    found = {}
    for name in ("again", "new"):
        main(["predict", f"--ckpt_path={LAST}", f"--data.path={name}.csv"])
        found[name], index = proportions()
        assert index.tolist() == list(range(150)), "all documents, by position in the file"
    assert np.allclose(found["again"], found["new"], atol=1e-6)
    write("few.csv", 1)  # most of the 24 words are missing
    main(["predict", f"--ckpt_path={LAST}", "--data.path=few.csv"])
    assert np.allclose(proportions()[0], found["again"][:1], atol=1e-6)
    counts = ["test", f"--ckpt_path={LAST}", "--data.path=new.csv", "--data.weighting=counts"]
    assert "trained on weighting tfidf, the data have counts: set --data.weighting=tfidf" in fails(capsys, counts)


def test_loaded_model_counts_new_documents_with_its_vocabulary(topics):
    write("new.csv", 30, more=["aardvark", "zebra"], label=lambda i: f"kind {i}")
    model, trainer = vqlab.load(LAST), lightning.Trainer(**BARE)
    data = TextFile("new.csv", min_df=1, max_df=1.0, max_vocab=24, batch_size=8)
    assert "zebra" in data.vocabulary
    rows = trainer.predict(model, data)
    assert torch.cat([row["index"] for row in rows]).tolist() == list(range(30))
    assert data.vocabulary == model.vocabulary
    assert data.class_names == ["0", "1", "2"]
    assert set(next(iter(data.val_dataloader()))["label"].tolist()) == {-1}, "unknown classes"
    with refused("weighting tfidf"):
        trainer.test(model, TextFile("new.csv", min_df=1, weighting="counts", batch_size=8), verbose=False)


def test_checkpoint_without_data_format_is_evaluated(topics):
    whole = torch.load(LAST, weights_only=True)
    assert stored_format(whole)["vocabulary"] == sorted(word for group in GROUPS for word in group)
    del whole["TextFile"]
    torch.save(whole, LAST)
    main(["test", f"--ckpt_path={LAST}"])


def test_damaged_data_format_is_refused():
    write("train.csv")
    model = GANTopicModel(num_topics=3, vocab_size=24)
    setattr(model, ENTRY, {"vocabulary": 3})
    with refused("data_format is damaged"):
        lightning.Trainer(**BARE).test(model, TextFile("train.csv", min_df=1, batch_size=8), verbose=False)


def test_other_vocabulary_of_counts_is_refused():
    save_npz("a.npz", csr_matrix(np.random.default_rng(0).integers(1, 4, (20, 3))))
    Path("a.txt").write_text("cat\ndog\nemu\n")
    Path("b.txt").write_text("dog\ncat\nemu\n")
    trained = BagOfWords("a.npz", vocabulary_path="a.txt", batch_size=4)._full_format()
    BagOfWords("a.npz", vocabulary_path="a.txt", batch_size=4).apply_format(trained)
    with refused("vocabulary ['cat', 'dog', 'emu'], the data have ['dog', 'cat', 'emu']: set path=FILE"):
        BagOfWords("a.npz", vocabulary_path="b.txt", batch_size=4).apply_format(trained)


def signals(folder, names, rate, scale=1.0):
    Path(folder).mkdir()
    draw = np.random.default_rng(0)
    for number in range(10):
        rows = draw.standard_normal((400, len(names))) * scale
        np.savetxt(Path(folder, f"{number}.csv"), rows, "%.4f", ",", header=",".join(names), comments="")
    return {"path": folder, "sample_rate": rate, "length": 100, "batch_size": 4}


def test_other_channels_and_sample_rates_are_refused():
    trained = Signals(**signals("a", ["II", "V1"], 360))._full_format()
    difference = "channels ['II', 'V1'], samples per second 360.0, the data have ['V1', 'II'], 100.0"
    with refused(f"the checkpoint was trained on {difference}: set picks=[II,V1] resample=360.0"):
        Signals(**signals("b", ["V1", "II"], 100)).apply_format(trained)
    corrected = Signals("b", sample_rate=100, picks=["II", "V1"], resample=360, length=100, batch_size=4)
    held_out = len(corrected.predict_dataloader().dataset)
    corrected.apply_format(trained)
    assert [statistic.flatten().tolist() for statistic in corrected.statistics] == trained["statistics"]
    assert len(corrected.predict_dataloader().dataset) > held_out, "all windows of new records are predicted"
    with refused("set standardize=signal"):
        Signals("a", sample_rate=360, standardize="none", length=100, batch_size=4).apply_format(trained)


def pictures(folder, classes):
    for name in classes:
        Path(folder, name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8), (number * 9, 0, 0)).save(Path(folder, name, f"{number}.png"))
    return {"path": folder, "image_size": 8, "batch_size": 2, "num_workers": 0}


def test_image_classes_keep_their_numbers():
    first = ImageFolder(**pictures("a", ["cat", "dog", "emu"]))
    trained = first._full_format() | {"classes": first.classes}
    some = ImageFolder(**pictures("b", ["dog", "emu"]))
    some.apply_format(trained)
    assert some.num_classes == 3
    whole = some.predict_dataloader().dataset
    assert whole.labels.tolist() == [1] * 6 + [2] * 6
    assert [Path(file).parent.name for file in whole.files] == ["dog"] * 6 + ["emu"] * 6
    with refused("classes ['cat', 'dog', 'emu'], the data have ['cat', 'yak']"):
        ImageFolder(**pictures("c", ["cat", "yak"])).apply_format(trained)


def test_images_are_standardized_with_training_statistics():
    for name, top in (("a", 100), ("b", 250)):
        np.savez(f"{name}.npz", x=np.random.default_rng(0).integers(0, top, (20, 8, 8), np.uint8))
    trained = ImageArrays("a.npz", batch_size=4, value_range="standardized")._full_format()
    data = ImageArrays("b.npz", batch_size=4, value_range="standardized")
    own = copy.copy(data.pixel_range)
    data.apply_format(trained)
    assert [list(data.pixel_range.mean), list(data.pixel_range.std)] == trained["statistics"]
    assert data.pixel_range != own
    assert len(data.predict_dataloader().dataset) == 20
    with refused("value range standardized, the data have unit: set value_range=stand"):
        ImageArrays("a.npz", batch_size=4, value_range="unit").apply_format(trained)


def test_font_styles_are_compared_in_order():
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    serif, mono = (str(folder / f"DejaVu{name}.ttf") for name in ("Serif", "SansMono"))
    both = {"source": str(folder / "DejaVuSans.ttf"), "charset": "ascii", "cache": None, "batch_size": 8}
    trained = FontPairs(target=[serif, mono], **both)._full_format()
    FontPairs(target=[serif, mono], **both).apply_format(trained)
    with refused("set target=FONTS, these in this order"):
        FontPairs(target=[mono, serif], **both).apply_format(trained)
    with refused("em_scale 0.75, the data have 0.5: set em_scale=0.75"):
        FontPairs(target=[serif, mono], em_scale=0.5, **both).apply_format(trained)


def test_long_differences_give_a_short_message():
    one = [f"word{n}" for n in range(2000)]
    with pytest.raises(vqlab.UserError) as error:
        check_format({"vocabulary": one}, {"vocabulary": one[::-1]}, "--data.{0}".format)
    assert len(str(error.value)) < 300
    check_format({"new": 1}, {"old": 2}, "{}".format)
