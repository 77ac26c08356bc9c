"""Check of the options of many runs, which builds and trains nothing."""

from contextlib import ExitStack, suppress
from typing import Any

from vqlab.cli.lightning import CLI, prepare
from vqlab.errors import UserError


class Checked(Exception):
    """All options have been read."""


def complaints(commands: list[list[str]]) -> list[str | None]:
    """Return for each argument list the error of ``vqlab`` about its options in one line, None if there is none."""
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

    prepare()
    with suppress(Checked):
        OptionCheck(args=[], held=ExitStack())
    return found
