"""Lightning's command line with this project's defaults."""

import pkgutil
import warnings
from typing import Any

import torch
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI


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
        if config.trainer.enable_progress_bar is False and isinstance(config.trainer.callbacks, list):
            # Lightning refuses a bar in the callbacks beside that setting; configs/base.yaml has one.
            config.trainer.callbacks = [each for each in config.trainer.callbacks if not _is_progress_bar(each)]


def _is_progress_bar(callback: Any) -> bool:
    return issubclass(pkgutil.resolve_name(callback.class_path), ProgressBar)


def _parser_options() -> dict[str, Any]:
    """Options of all parsers, and a short usage for each subcommand: a hundred lines of it would bury the message."""
    mode = {"parser_mode": "omegaconf+"}
    usage = "train.py {} [-c FILE ...] [--KEY VALUE ...]"
    return {**mode, **{name: {**mode, "usage": usage.format(name)} for name in LightningCLI.subcommands()}}
