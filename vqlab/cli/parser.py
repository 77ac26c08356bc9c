"""Arguments of the commands that are no LightningCLI's."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from vqlab.errors import UserError


class Parser(argparse.ArgumentParser):
    """Argparse that raises its complaint as a UserError, as all of vqlab does."""

    def error(self, message: str) -> NoReturn:
        """Raise ``message`` in one line."""
        raise UserError(f"{message}: see {self.prog} --help")


def as_script(command: Callable[[Sequence[str]], None]) -> None:
    """Run what ``python -m vqlab.NAME`` is; a mistake of the user ends it with one line and exit status 2."""
    try:
        command(sys.argv[1:])
    except UserError as error:
        print(f"vqlab: error: {error}", file=sys.stderr)
        sys.exit(2)
