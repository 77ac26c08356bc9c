"""Reads the options of many runs as fit would, all in one process, for torch takes longer to import than they to read.

    python -m vqlab.cli.check_options < commands.json

The input is a JSON list of argument lists; the output is a JSON list with, for each, its one-line complaint or null.
"""

import json
import sys
from contextlib import ExitStack, suppress
from typing import Any

from vqlab.cli.lightning import CLI, prepare
from vqlab.errors import UserError


class Checked(Exception):
    """All options are read; nothing is to be built or trained."""


def complaints(commands: list[list[str]]) -> list[str | None]:
    """Return for each argument list what ``vqlab`` would say against its options, None if nothing."""
    prepare()
    found: list[str | None] = []

    class OptionCheck(CLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            for command in commands:
                try:
                    super().parse_arguments(parser, command)
                    found.append(None)
                except UserError as error:
                    found.append(error.line)
            raise Checked

    with suppress(Checked):
        OptionCheck(args=[], held=ExitStack())
    return found


if __name__ == "__main__":
    json.dump(complaints(json.load(sys.stdin)), sys.stdout)
