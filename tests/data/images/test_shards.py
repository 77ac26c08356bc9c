"""Images in tar files, compared with the same images in a folder, from a disk and from a local web server."""

import functools
import http.server
import io
import shutil
import tarfile
import threading
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.refusal import refused
from vqlab.cli.write_shards import main, write_index, write_shards
from vqlab.data import ImageFolder
from vqlab.data.images.shards import INDEX, ImageShards, mixed_order, open_shard


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Noise in three classes, with splits."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in {"train": 40, "val": 5, "test": 3}.items():
        for number in range(count):
            path = root / split / "abc"[number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (9, 10, 3), np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def shards(image_folder, tmp_path_factory):
    """The same images in shards of about four images."""
    out = tmp_path_factory.mktemp("shards") / "out"
    write_shards(image_folder, out, shard_mb=0.006)
    return out


@pytest.fixture
def served(shards):
    """URL of the shards, and the list of requests."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        open_shard.cache_clear()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def data(path, **options):
    return ImageShards(str(path), **{"image_size": 8, "batch_size": 4, "num_workers": 0, **options})


def images(loader):
    """Return label and bytes of each image."""
    return Counter((int(y), x.numpy().tobytes()) for b in loader for x, y in zip(b["image"], b["label"], strict=True))


def seen(loader):
    return [batch["index"].tolist() for batch in loader]


def pack(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def png(shade=0):
    file = io.BytesIO()
    Image.new("L", (8, 8), shade).save(file, "png")
    return file.getvalue()


def test_shards_hold_the_images_of_the_folder_with_and_without_an_index(image_folder, shards, tmp_path):
    shutil.copytree(shards, tmp_path, ignore=shutil.ignore_patterns(INDEX), dirs_exist_ok=True)
    ours, plain = data(shards), data(tmp_path)
    folder = ImageFolder(str(image_folder), image_size=8, batch_size=4, num_workers=0)
    assert (ours.num_classes, ours.train_size) == (3, 40)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        assert images(getattr(ours, loader)()) == images(getattr(folder, loader)())
        assert seen(getattr(ours, loader)()) == seen(getattr(plain, loader)())
    with tarfile.open(shards / "train" / "000000.tar") as tar:
        classes = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".cls")]
        assert len(tar.getnames()) == 2 * len(classes)
    assert len(set(classes)) > 1, "classes are mixed"


@pytest.mark.parametrize("mixed", [1, 3, 100])
def test_an_epoch_has_each_image_once_and_mixes_few_shards(mixed):
    shard = torch.arange(50).repeat_interleave(20)
    orders = [mixed_order(shard, mixed, seed=0, epoch=epoch) for epoch in range(2)]
    assert not torch.equal(*orders)
    for order in orders:
        assert sorted(order.tolist()) == list(range(1000))
        places = [(shard[order] == number).nonzero() for number in range(50)]
        spans = torch.stack([place.max() - place.min() for place in places])
        assert spans.max() <= (mixed + 1) * 20
    assert not torch.equal(order.view(50, 20).sort().values, torch.arange(1000).view(50, 20)) or mixed == 1
    assert mixed == 1 or len(shard[order][500:520].unique()) > 1


def test_an_epoch_with_workers_is_resumed(shards):
    whole = seen(data(shards).train_dataloader())
    assert sorted(chain(*whole)) == list(range(40))
    stopped = data(shards, num_workers=2).train_dataloader()
    stream = iter(stopped)
    first = [next(stream)["index"].tolist() for _ in range(3)]
    resumed = data(shards).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    stream.close()
    assert first + seen(resumed) == whole


def fetched(asked):
    return Counter(name for name in asked if name.endswith(".tar"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_shard_behind_a_url_is_downloaded_once(served, shards, tmp_path, num_workers):
    url, asked = served
    ours = data(url, cache=str(tmp_path / "cache"), num_workers=num_workers)
    assert images(ours.train_dataloader()) == images(data(shards).train_dataloader())
    assert seen(ours.train_dataloader()) == seen(data(shards).train_dataloader())
    assert set(fetched(asked).values()) == {1}
    open_shard.cache_clear()
    before = fetched(asked)
    images(data(url, cache=str(tmp_path / "cache")).train_dataloader())
    assert fetched(asked) == before, "the next run uses the copies"
    for copy in (tmp_path / "cache").glob("*.tar"):
        copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    open_shard.cache_clear()
    assert images(ours.train_dataloader()) == images(data(shards).train_dataloader()), "damaged copies are replaced"


def test_a_shard_behind_a_url_must_have_the_checksum_of_the_index(served, shards, tmp_path):
    url, _ = served
    shard = shards / "train" / "000000.tar"
    before = shard.read_bytes()
    shard.write_bytes(before[:-1] + b"x")
    try:
        with refused(f"{url}/train/000000.tar", "another checksum than its index states", "--index"):
            images(data(url, cache=str(tmp_path / "cache")).train_dataloader())
    finally:
        shard.write_bytes(before)
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_copies_of_a_url_are_limited_by_cache_gb(served, tmp_path, shards):
    url, _ = served
    size = max(file.stat().st_size for file in shards.rglob("*.tar"))
    ours = data(url, cache=str(tmp_path / "cache"), cache_gb=2.5 * size / 1e9, shuffle_shards=1)
    for _ in ours.train_dataloader():
        kept = list((tmp_path / "cache").glob("*.tar"))
        assert sum(file.stat().st_size for file in kept) <= 2.5 * size
    assert len(kept) >= 2


def test_webdataset_files_of_other_tools_are_read(tmp_path):
    members = [
        ("./a/x.1.seg.png", png()),  # of the example x, but not its image
        *(("./a/x.JPG", png(9)), ("./a/x.cls", b"2\n")),
        *(("./a/._y.png", png()), ("./a/y.json", b"{}"), ("./a/y.png", png(5))),
        ("./b/y.png", png(7)),
    ]
    for number in range(2):
        pack(tmp_path / f"set-{number}.tar", members)
    found = data(tmp_path, channels=1, value_range="unit", batch_size=1)
    batches = list(found.train_dataloader())
    shades = {(round(float(b["image"].mean() * 255)), int(b["label"])) for b in batches}
    assert shades == {(9, 2), (5, -1), (7, -1)}
    assert (found.num_classes, len(found.val_dataloader())) == (3, 3)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["holds no shards (.tar)", "path=FOLDER"]),
        ({"0.tar": [("a.png", png())]}, ["no images for train", "at least two"]),
        ({"0.tar": [("a.png", png())], "1.tar": [("a.txt", b"")]}, ["no images for val"]),
        ({"0.tar": [("a.png", png()), ("a.cls", b"cat")]}, ["a.cls in", "0.tar", "digits"]),
        ({"0.tar": b"no tar"}, ["0.tar cannot be read as an uncompressed tar file", "write it again"]),
        ({"set/train/0.tar": [("a.png", png())], "set/test/0.tar": [("a.png", png())]}, ["set holds test, train"]),
        ({INDEX: b"PK\x03\x04cut"}, [INDEX, "cannot be read", "--index"]),
    ],
)
def test_bad_shards_give_one_line(tmp_path, files, words):
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            pack(tmp_path / name, content)
    with refused(*words):
        data(tmp_path)


def test_an_index_of_other_shards_is_refused(tmp_path):
    for split in ("train", "val"):
        pack(tmp_path / split / "0.tar", [("a.png", png())])
    write_index(tmp_path)
    with np.load(tmp_path / INDEX) as file:
        good = dict(file)
    for name in ("train/../../x.tar", "/etc/passwd", "a::file:///etc/passwd"):
        np.savez(tmp_path / INDEX, **(good | {"names": np.array([name, "val/0.tar"])}))
        with refused(INDEX, "not in its folder", "--index"):
            data(tmp_path)
    for wrong in ({"lengths": good["lengths"] + 512}, {"names": np.array(["none.tar", "val/0.tar"])}):
        np.savez(tmp_path / INDEX, **(good | wrong))
        with refused(INDEX, "--index"):
            data(tmp_path)


def test_a_damaged_image_and_a_missing_shard_give_one_line(tmp_path):
    for split in ("train", "val"):
        pack(tmp_path / split / "0.tar", [("a.png", b"no image")])
    found = data(tmp_path, batch_size=1)
    with refused("the image at byte 512 of train/0.tar cannot be decoded"):
        next(iter(found.train_dataloader()))
    open_shard.cache_clear()
    (tmp_path / "train" / "0.tar").unlink()
    with refused("train/0.tar", "cannot be opened", "path=FOLDER"):
        next(iter(found.train_dataloader()))


def test_missing_index_and_server_give_one_line(served):
    url, _ = served
    with refused(f"{url}/nowhere/{INDEX} cannot be read (404", "--index"):
        data(f"{url}/nowhere")
    with refused("cannot be read (Cannot connect to host", "check the path"):
        data("http://127.0.0.1:1/shards")


def test_writing_needs_an_empty_folder(image_folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with refused("exists already"):
        write_shards(image_folder, tmp_path)
    with refused("folder to write to"):
        main([str(image_folder)])
    with refused("not a folder"):
        main(["--index", str(tmp_path / "none")])
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
