"""Lightning's command line with this project's defaults."""

import warnings
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.run_folder import SameCheckpoint, newest_checkpoint, write_into


class VideoLanguageCLI(LightningCLI):
    """LightningCLI over one module class and one datamodule class.

    Several ``-c`` files merge in order and the length of the run is stated once, as ``trainer.max_steps``. OmegaConf
    interpolation is resolved after merging; its paths are relative (``${.sibling}``, ``${..model.max_new_tokens}``),
    because the root lies one level deeper under a subcommand.
    """

    def __init__(self, model_class: Any, datamodule_class: Any, args: Any = None, **kwargs: Any) -> None:
        super().__init__(
            model_class,
            datamodule_class,
            args=args,
            seed_everything_default=0,
            parser_kwargs=_parser_options(),
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,  # model.optimization sets rates part by part; --optimizer would undo that
            **kwargs,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what would otherwise be said twice."""
        parser.link_arguments("trainer.max_steps", "data.num_steps")
        parser.add_argument(
            "--num_threads", type=int | None, default=None, help="CPU threads of torch; its own default if not given"
        )
        parser.add_argument(
            "--run_folder",
            type=str | None,
            default=None,
            help="logs, config and checkpoints go here; fit goes on from the newest checkpoint in it, if there is one",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, without Lightning's warning: the other entry points do have a command line of their own."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().parse_arguments(parser, args)

    def before_instantiate_classes(self) -> None:
        """Apply settings that must hold before anything is built."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        if config.run_folder is not None:
            write_into(config.trainer, config.run_folder)

    def before_fit(self) -> None:
        """In a run folder, go on where the run was stopped; ``--ckpt_path`` is where it starts for the first time."""
        config = self.config_init[self.subcommand]
        if config.run_folder is None:
            return
        newest = newest_checkpoint(config.run_folder)
        trainer: Any = self.trainer  # Lightning sets callbacks where a type checker does not see it
        trainer.callbacks.insert(0, SameCheckpoint(newest))
        if newest is not None:
            if config.ckpt_path:
                rank_zero_info(f"The run has begun: {config.ckpt_path} is where it started, and is not read again")
            rank_zero_info(f"Going on from {newest}")
            config.ckpt_path = str(newest)


def _parser_options() -> dict[str, Any]:
    """Options of all parsers, and a short usage for each subcommand: a hundred lines of it would bury the message."""
    mode = {"parser_mode": "omegaconf+"}
    usage = "train.py {} [-c FILE ...] [--KEY VALUE ...]"
    return {**mode, **{name: {**mode, "usage": usage.format(name)} for name in LightningCLI.subcommands()}}
