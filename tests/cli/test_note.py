"""Notes on runs: where they are kept and shown."""

from pathlib import Path

import pytest

from tests.helpers import run_folders
from tests.helpers.refusal import refused
from vqlab.cli.note import note
from vqlab.cli.report import report


@pytest.fixture
def run():
    run_folders.make("runs/vqvae/first")
    return "runs/vqvae/first"


def test_note_is_printed_replaced_and_removed(run, capsys):
    note([run, "loss oscillates\n badly"])
    note([run])
    note([run, "very poor"])
    note([run])
    note([run, ""])
    note([run])
    assert capsys.readouterr().out.splitlines() == ["loss oscillates badly", "very poor", "no note"]
    assert not Path(run, "note.txt").exists()


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_report_shows_notes(run, suffix):
    run_folders.make("runs/vqvae/second")
    note([run, "loss oscillates badly"])
    report(["runs", "--format", suffix])
    assert "loss oscillates badly" in Path(f"report/report.{suffix}").read_text()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["runs/vqvae/frist", "x"], "runs/vqvae/frist is not a run folder: give a folder such as runs/vqvae/first"),
        (["runs/vqvae/first", "x" * 501], "note must have at most 500 characters, got 501"),
        ([], "the following arguments are required: run: see vqlab note --help"),
    ],
)
def test_message_of_mistake(run, args, words):
    with refused(words):
        note(args)
