"""``vqlab note``: one line about a run, such as "loss oscillates", kept in its folder."""

from collections.abc import Sequence
from pathlib import Path

from vqlab.cli.arguments import Parser
from vqlab.errors import UserError
from vqlab.experiments.run_state import check_note, holds_run, write_note
from vqlab.experiments.runs import read_note
from vqlab.experiments.text import printable


def note(args: Sequence[str]) -> None:
    """Run ``vqlab note`` with ``args``."""
    description = "Write one line about a run into its folder; vqlab info and vqlab report show it."
    parser = Parser(prog="vqlab note", description=description)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "text", nargs="?", help="the note, which replaces an earlier one; '' removes it (default: print it)"
    )
    options = parser.parse_args(args)
    if not holds_run(options.run):
        raise UserError(f"{options.run} is not a run folder: give a folder such as runs/vqvae/first")
    if options.text is None:
        print(printable(read_note(options.run) or "no note"))
    else:
        write_note(options.run, check_note(options.text))
