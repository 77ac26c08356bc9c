"""Arguments of the commands that are no LightningCLI's."""

import argparse
from typing import NoReturn

from vqlab.errors import UserError


class Parser(argparse.ArgumentParser):
    """Argparse that raises its error as a UserError, as all of vqlab does."""

    def error(self, message: str) -> NoReturn:
        """Raise ``message`` in one line."""
        raise UserError(f"{message}: see {self.prog} --help")
