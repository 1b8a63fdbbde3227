"""Train, validate, test and predict: ``python train.py fit -c CONFIG.yaml --KEY VALUE``."""

from collections.abc import Sequence
from typing import Any

from command_errors import run_and_exit
from datamodules.instruction import InstructionDataModule
from lightning_modules.console.command_line import CommandLineReader, VideoLanguageCLI
from lightning_modules.video_language import VideoLanguageModule


def main(args: Sequence[str] | None = None) -> VideoLanguageCLI:
    """Run one subcommand.

    Args:
        args: Command line after the program's name; that of the process by default.

    Returns:
        The command-line object with its trainer, model and datamodule.
    """
    return VideoLanguageCLI(VideoLanguageModule, InstructionDataModule, args=list(args) if args is not None else None)


def parse(args: Sequence[str]) -> Any:
    """Read a command line as ``main`` does, and build nothing.

    Args:
        args: Command line after the program's name.

    Returns:
        The settings of its subcommand, with all files merged.

    Raises:
        SystemExit: The command line is wrong; the message has been printed.
        ValueError: ``${...}`` names a setting that does not exist, or the trainer has a harmful setting.
    """
    read = CommandLineReader(VideoLanguageModule, InstructionDataModule, args=list(args))
    return read.config[read.subcommand]


if __name__ == "__main__":
    run_and_exit(main)
