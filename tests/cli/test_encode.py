"""``vqlab encode`` and ``vqlab decode``: files there and back, and mistakes in one line."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.tiny import fails
from tests.helpers.codecs import LENGTH, PATCH, save, small_s4dvq, wave
from tests.helpers.forks import Forked
from tests.helpers.small_models import sgan
from vqlab.cli.main import main
from vqlab.data.signals.records import change_rate, read_records
from vqlab.interop import unpack_record
from vqlab.models import S4DVQ, SignalCodec
from vqlab.training.checkpoint import load


@pytest.fixture
def checkpoint():
    save("a.ckpt", small_s4dvq("s4d"), standardize="signal", sample_rate=360.0)
    return "a.ckpt"


@pytest.mark.parametrize("samples", [1, PATCH - 1, PATCH, 600 * LENGTH + 3])
def test_record_there_and_back(checkpoint, capsys, samples):
    x = wave(samples)
    np.savez("one.npz", x=x, fs=360)
    main(["encode", checkpoint, "one.npz"])
    line = capsys.readouterr().out
    size = Path("encoded/one.vqs").stat().st_size
    facts = rf"encoded/one\.vqs: {samples:,} samples, {samples / 360:,.1f} s, {size:,} bytes"
    facts += rf", {8 * size / samples:.3f} bits per sample"
    assert re.fullmatch(rf"{facts} \([\d.]+ at log2 K bits per code\), SNR [-\d.]+ dB, PRD [\d.]+ %\n", line)
    status, _ = Forked("decode", checkpoint, "encoded/one.vqs").end()
    assert status == 0
    codec = SignalCodec(load(checkpoint), LENGTH)  # another process, and other chunks
    record = unpack_record(Path("encoded/one.vqs").read_bytes(), codec, "one.vqs")
    np.testing.assert_array_equal(codec.encode(x).codes, record.coded.codes)
    with np.load("decoded/one.npz") as arrays:
        assert (arrays["signal"].dtype, arrays["fs"], arrays["channels"].tolist()) == (np.float32, 360, ["0"])
        assert np.abs(arrays["signal"] - codec.decode(record.coded)).max() <= 1e-3 * max(x.std(), 1e-9)
        error = np.square(arrays["signal"] - x).mean()
    if samples > LENGTH:
        assert float(line.partition("SNR ")[2].split()[0]) == pytest.approx(10 * np.log10(x.var() / error), abs=0.006)
        assert float(line.partition("PRD ")[2].split()[0]) == pytest.approx(100 * np.sqrt(error / x.var()), abs=0.006)
    (found,) = read_records(Path("decoded/one.npz"))
    assert (found.signal.shape, found.sample_rate) == ((1, samples), 360)


def test_channels_are_found_by_name_and_the_rate_is_changed(capsys):
    save("a.ckpt", small_s4dvq(channels=2), sample_rate=100.0, channels=["V1", "II"])
    x = wave(2000, 3)
    np.savez("one.npz", signal=x, fs=200, channels=np.array(["II", "x", "v1"]))
    main(["encode", "a.ckpt", "one.npz", "-o", "codes"])
    main(["decode", "a.ckpt", "codes/one.vqs", "-o", "signals"])
    assert "resampled from 200 to 100 samples per second" in capsys.readouterr().out
    (found,) = read_records(Path("signals/one.npz"))
    assert (found.channels, found.sample_rate) == (["v1", "II"], 100)
    codec = SignalCodec(load("a.ckpt"))
    expected = codec.decode(codec.encode(change_rate(x[[2, 0]], 200, 100)))
    np.testing.assert_array_equal(found.signal, expected)


def test_records_of_one_file_are_numbered(checkpoint):
    np.save("both.npy", wave(600).reshape(2, 1, 300))
    main(["encode", checkpoint, "both.npy"])
    assert sorted(path.name for path in Path("encoded").iterdir()) == ["both_0.vqs", "both_1.vqs"]


def test_array_and_axes_are_chosen(checkpoint):
    np.savez("some.npz", x=wave(300).repeat(2, 0).T, peaks=np.arange(5), fs=360)
    main(["encode", checkpoint, "some.npz", "--array", "x", "--axes", "t n"])
    assert sorted(path.name for path in Path("encoded").iterdir()) == ["some_0.vqs", "some_1.vqs"]


def test_mistakes_are_reported_in_one_line_and_nothing_is_written(checkpoint, capsys):
    save("gan.ckpt", sgan())
    save("identity.ckpt", S4DVQ(quantizer=None))
    save("named.ckpt", small_s4dvq(), channels=["V5"])
    np.savez("one.npz", signal=wave(100), fs=360, channels=np.array(["II"]))
    np.save("two.npy", wave(100, 2))
    np.save("gap.npy", np.where(np.arange(100) == 7, np.nan, wave(100)))
    Path("text.vqs").write_text("text")
    Path("empty.vqs").touch()
    Path("sub").mkdir()
    before = sorted(Path().rglob("*"))
    for args, words in [
        (["encode", checkpoint], "required: files"),
        (["encode", "nope.ckpt", "one.npz"], "does not exist"),
        (["encode", "gan.ckpt", "one.npz"], "is a SGAN: encode and decode need an S4DVQ, a CodePrior or a tokenizer"),
        (["decode", "gan.ckpt", "empty.vqs"], "is a SGAN: encode and decode need an S4DVQ, a CodePrior or a tokenizer"),
        (["encode", "identity.ckpt", "one.npz"], "IdentityQuantizer has none"),
        (["encode", "named.ckpt", "one.npz"], "one.npz has no channel V5, but II: the checkpoint needs it"),
        (["encode", checkpoint, "two.npy"], "two.npy must have 1 channels, as the checkpoint, got 0, 1"),
        (["encode", checkpoint, "gap.npy"], "gap.npy: the record must be finite"),
        (["encode", checkpoint, "nope.npy"], "nope.npy cannot be read"),
        (["encode", checkpoint, "one.npz", "sub/one.csv"], "would both become one"),
        (["decode", checkpoint, "nope.vqs"], "nope.vqs cannot be read"),
        (["decode", checkpoint, "text.vqs"], "text.vqs is not a file of vqlab encode"),
        (["decode", checkpoint, "empty.vqs"], "empty.vqs is empty"),
        (["decode", checkpoint, "one.vqs", "-o", "."], "one.npz exists and is not overwritten"),
    ]:
        assert words in fails(capsys, args)
    assert sorted(Path().rglob("*")) == before


def test_file_of_another_checkpoint_is_refused(checkpoint, capsys):
    np.save("one.npy", wave(300))
    main(["encode", checkpoint, "one.npy"])
    save("b.ckpt", small_s4dvq("s4d", seed=1))
    assert "was encoded with another checkpoint" in fails(capsys, ["decode", "b.ckpt", "encoded/one.vqs"])
    assert not Path("decoded").exists()
