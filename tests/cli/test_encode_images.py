"""``vqlab encode`` and ``vqlab decode`` of images: files there and back, and mistakes in one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.e2e.tiny import fails
from tests.helpers.codecs import save
from tests.helpers.forks import Forked
from tests.helpers.models import build
from tests.helpers.small_models import parts, sgan, vqvae
from vqlab.cli.main import main
from vqlab.interop import ImageCodec, unpack_images
from vqlab.models import VQVAE, CodePrior
from vqlab.models.vq.code_search import search_codes
from vqlab.quantizers import ResidualQuantizer, VectorQuantizer
from vqlab.training.checkpoint import load

LINE = r"encoded/a\.vqi: {n} images?, ([\d,]+) bytes, ([\d.]+) bits per image \(64\.00 at log2 K bits per code\)"


def prior(tokenizer=None, **options):
    torch.manual_seed(0)
    model = build(CodePrior, tokenizer or vqvae(), dim=16, depth=1, heads=2, **options)
    for weight in model.network.parameters():
        nn.init.normal_(weight, std=0.3)
    return model


def residual():
    torch.manual_seed(1)
    return build(VQVAE, **parts(), quantizer=ResidualQuantizer(VectorQuantizer(16, 8), 2))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(256, size=(300, 16, 16), dtype=np.uint8)


@pytest.mark.parametrize("make", [vqvae, prior, lambda: prior(residual(), depth_blocks=1)], ids=["no", "long", "depth"])
def test_data_set_there_and_back(make, pixels, capsys):
    model = make().eval()
    save("a.ckpt", model)
    np.savez("a.npz", x=pixels)
    main(["encode", "a.ckpt", "a.npz"])
    line = capsys.readouterr().out
    bits = 128 if hasattr(model, "network") and model.network.num_codebooks == 2 else 64
    found = re.fullmatch(LINE.format(n=300).replace("64", str(bits)) + r", PSNR ([\d.]+) dB\n", line)
    size = Path("encoded/a.vqi").stat().st_size
    assert (found[1], found[2]) == (f"{size:,}", f"{8 * size / 300:.2f}")
    status, output = Forked("decode", "a.ckpt", "encoded/a.vqi").end()  # another process
    assert status == 0, output
    with np.load("decoded/a.npz") as arrays:
        decoded = arrays["x"]
    x = torch.from_numpy(pixels[:, None]).float() / 127.5 - 1
    codes = unpack_images(Path("encoded/a.vqi").read_bytes(), ImageCodec(load("a.ckpt")), "a.vqi")
    with torch.no_grad():
        np.testing.assert_array_equal(codes, model.encode(x).numpy())
        expected = model.decode(torch.from_numpy(codes)).add(1).mul(127.5).clamp(0, 255)[:, 0].numpy()
    assert (decoded.shape, decoded.dtype) == ((300, 16, 16), np.uint8)
    assert np.abs(decoded - expected).max() < 0.51
    mse = np.square((decoded.astype(float) - pixels) / 255).mean((1, 2))
    assert float(found[3]) == pytest.approx(-10 * np.log10(mse).mean(), abs=0.006)
    if hasattr(model, "network"):
        with torch.no_grad():
            ideal = model.nll(x).double().sum().item() / np.log(2)
        assert 8 * size == pytest.approx(ideal, rel=0.01)


def test_single_images_and_folders(pixels, capsys):
    save("a.ckpt", prior())
    Path("folder").mkdir()
    for number in range(3):
        Image.fromarray(pixels[number]).save(f"folder/{number}.png")
    Image.fromarray(pixels[3].repeat(2, 0).repeat(2, 1)).save("large.png")
    main(["encode", "a.ckpt", "folder", "folder/1.png", "large.png"])
    assert "large.png: resized and cropped 1 image to 16 x 16" in capsys.readouterr().out
    main(["decode", "a.ckpt", *(f"encoded/{name}.vqi" for name in ("folder", "1", "large"))])
    with np.load("decoded/folder.npz") as arrays, Image.open("decoded/1.png") as image:
        assert arrays["x"].shape == (3, 16, 16)
        np.testing.assert_array_equal(arrays["x"][1], np.array(image))
    assert Path("decoded/large.png").exists()


def test_mistakes_are_reported_in_one_line_and_nothing_is_written(pixels, capsys):
    save("a.ckpt", prior())
    save("b.ckpt", vqvae())
    np.savez("a.npz", x=pixels[:5])
    np.savez("splits.npz", x_train=pixels, x_test=pixels)
    np.save("colour.npy", pixels[:2, ..., None].repeat(3, -1))
    np.save("float.npy", np.zeros((2, 16, 16)))
    Path("text.vqi").write_text("text")
    Path("empty").mkdir()
    main(["encode", "a.ckpt", "a.npz"])
    data = Path("encoded/a.vqi").read_bytes()
    Path("short.vqi").write_bytes(data[:-5])
    Path("flipped.vqi").write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    before = sorted(Path().rglob("*"))
    for args, words in [
        (["encode", "a.ckpt", "splits.npz"], "splits.npz has 2 arrays of images, but x_train, x_test: choose one"),
        (["encode", "a.ckpt", "splits.npz", "--array", "y"], "has no array y, but x_train, x_test"),
        (["encode", "a.ckpt", "colour.npy"], "colour.npy must have 1 channels, as the checkpoint, got 3"),
        (["encode", "a.ckpt", "float.npy"], "is float64, not uint8"),
        (["encode", "a.ckpt", "nope.png"], "nope.png cannot be read"),
        (["encode", "a.ckpt", "empty"], "empty holds no images"),
        (["encode", "a.ckpt", "a.npz", "--axes", "n t"], "axes is for signals, got 'n t': leave --axes out"),
        (["encode", "b.ckpt", "a.npz", "--candidates", "0"], "candidates must be from 1 to the 16 codes, got 0"),
        (["decode", "a.ckpt", "text.vqi"], "text.vqi is not a file of vqlab encode: give .vqi files"),
        (["decode", "a.ckpt", "short.vqi"], "short.vqi is damaged or truncated"),
        (["decode", "a.ckpt", "flipped.vqi"], "flipped.vqi is damaged or truncated"),
        (["decode", "b.ckpt", "encoded/a.vqi"], "was encoded with another checkpoint"),
        (["decode", "a.ckpt", "encoded/a.vqi", "-o", "."], "a.npz exists and is not overwritten"),
    ]:
        assert words in fails(capsys, args)
    assert sorted(Path().rglob("*")) == before


def test_searched_codes_lower_the_error(pixels, capsys):
    model = vqvae().eval()
    nn.init.normal_(model.quantizer.codebook)
    save("a.ckpt", model)
    np.savez("a.npz", x=pixels[:9])
    main(["encode", "a.ckpt", "a.npz"])
    main(["encode", "a.ckpt", "a.npz", "--candidates", "3", "-o", "searched"])
    plain, searched = (float(found) for found in re.findall(r"PSNR ([\d.]+) dB", capsys.readouterr().out))
    assert searched > plain
    codes = unpack_images(Path("searched/a.vqi").read_bytes(), ImageCodec(model), "a.vqi")
    x = torch.from_numpy(pixels[:9, None]).float() / 127.5 - 1
    np.testing.assert_array_equal(codes, search_codes(model, x, candidates=3).numpy())
    save("residual.ckpt", residual())
    needs = "the search of codes needs a VectorQuantizer, got a ResidualQuantizer"
    assert needs in fails(capsys, ["encode", "residual.ckpt", "a.npz", "--candidates", "2"])


def test_arrays_are_chosen_by_name(pixels, capsys):
    save("a.ckpt", vqvae())
    np.savez("splits.npz", x_train=pixels, x_test=pixels[:7])
    main(["encode", "a.ckpt", "splits.npz", "--array", "x_test"])
    assert "7 images" in capsys.readouterr().out


def test_model_without_codes_is_refused(capsys):
    save("gan.ckpt", sgan())
    assert "is a SGAN: encode and decode need" in fails(capsys, ["encode", "gan.ckpt", "a.png"])
