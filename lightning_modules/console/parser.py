"""The parser of ``train.py``: a message about a wrong setting is one line."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from lightning_modules.console.config_files import check_keys
from lightning_modules.console.settings_errors import SettingsError, explain


class ShortMessageParser(LightningArgumentParser):
    """Lightning's parser with this project's messages."""

    files: Sequence[str] = ()
    """Config files of the command line."""

    def check_files(self, files: Sequence[str]) -> None:
        """End the process with a message if a config file has a key that is no setting."""
        self.files = files
        try:
            check_keys(files, self.keys())
        except SettingsError as error:
            self.refuse(str(error))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and end the process with status 2; with ``exit_on_error=False`` raise an error instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser: ShortMessageParser = getattr(ex, "subcommand_parser", None) or self
        parser.refuse(explain(message, parser.keys(), parser.files))

    def refuse(self, line: str) -> NoReturn:
        """Print one line below the usage and end the process with status 2."""
        sys.stderr.write(f"{self.format_usage()}error: {line}\n")
        sys.exit(2)

    def keys(self) -> list[str]:
        """Keys of all settings."""
        return [action.dest for action in self._actions if action.dest]
