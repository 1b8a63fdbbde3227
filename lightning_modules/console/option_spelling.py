"""Options of the project's own commands are spelled ``--two-words``. Earlier versions had ``--two_words``: read too."""

import re
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Sequence
from typing import Any


def add_option(parser: ArgumentParser, name: str, **settings: Any) -> None:
    """Add an option, and its earlier spelling with underscores, which ``--help`` does not show.

    Args:
        parser: The command's parser.
        name: Such as ``--batch-size``.
        **settings: As for ``ArgumentParser.add_argument``.
    """
    parser.add_argument(name, **settings)
    earlier = name[2:].replace("-", "_")
    parser.add_argument(f"--{earlier}", dest=earlier, **{**settings, "default": SUPPRESS, "help": SUPPRESS})


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """Spell options as fields of a dataclass, for a parser whose options are such fields.

    Args:
        arguments: Command line; the text after ``=`` and arguments that do not begin with ``--`` stay as they are.
    """
    return [re.sub(r"^--[a-z][a-z.-]*", lambda found: f"--{found[0][2:].replace('-', '_')}", one) for one in arguments]


def with_hyphens(text: str) -> str:
    """Spell the options in a help text with hyphens."""
    return re.sub(r"--[a-z][a-z_.]*", lambda found: found[0].replace("_", "-"), text)
