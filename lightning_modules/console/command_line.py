"""Lightning's command line with this project's defaults."""

import pkgutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info
from omegaconf.errors import OmegaConfBaseException

from components.checkpoints.atomic_folder import newest_checkpoint
from lightning_modules.checkpoints.keeping import KeepCheckpoints
from lightning_modules.checkpoints.portable_checkpoints import PortableCheckpoints
from lightning_modules.console.config_files import (
    PARSER_MODE,
    accept_old_class_paths,
    named_config_files,
    with_new_option,
)
from lightning_modules.console.foreign_output import silence_foreign_output
from lightning_modules.console.parser import ShortMessageParser
from lightning_modules.console.run_summary import EvaluationSummary, RunSummary
from lightning_modules.console.settings_errors import SettingsError, explain, explain_trainer
from lightning_modules.console.untrained_parts import untrained_parts, warning_of
from lightning_modules.monitoring.tracker import Tracker
from lightning_modules.preemption import EndOnSigterm
from lightning_modules.run.run_folder import (
    RefuseDifferentCheckpoints,
    RefuseFolderInUse,
    SaveRunConfig,
    folder_of_runs,
    log_folder,
    write_beside_runs,
    write_into,
)
from lightning_modules.run.run_lock import RunLock
from lightning_modules.run.run_settings import check_trainer_settings, complete_settings
from lightning_modules.strategies.replicated import replicated_strategy
from lightning_modules.validation_schedule import ValidationSchedule

DEFAULTS = Path(__file__).resolve().parents[2] / "configs" / "base.yaml"
"""Read before the files that a command line names, from every working directory."""
EVALUATIONS = ("validate", "test", "predict")
_SCORED = ("validate", "test")


class VideoLanguageCLI(LightningCLI):
    """LightningCLI over one module class and one datamodule class.

    Several ``-c`` files are merged in order. The length of the run is stated once, as ``trainer.max_steps``. References
    (``${...}`` of OmegaConf) are resolved after merging. They are relative (``${.sibling}``,
    ``${..model.max_new_tokens}``), because under a subcommand the settings are one level deeper.
    """

    def __init__(self, model_class: Any, datamodule_class: Any, args: Any = None, **kwargs: Any) -> None:
        silence_foreign_output()
        accept_old_class_paths()
        super().__init__(
            model_class,
            datamodule_class,
            args=args,
            seed_everything_default=0,
            parser_class=ShortMessageParser,
            parser_kwargs=_parser_options(),
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,  # model.optimization sets rates part by part; --optimizer would undo that
            **{"save_config_callback": SaveRunConfig, **kwargs},
        )

    _lock = RunLock(Path())
    """Lock of the run's folder, which training acquires."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add this project's options, and link settings that have the same value."""
        parser.link_arguments("trainer.max_steps", "data.num_steps")
        parser.add_lightning_class_args(KeepCheckpoints, "checkpoint")
        parser.add_lightning_class_args(ValidationSchedule, "validation")
        parser.add_argument(
            "--num_threads", type=int | None, default=None, help="CPU threads of torch; its own default if not given"
        )
        parser.add_argument(
            "--run_folder",
            type=str | None,
            default=None,
            help="logs, config and checkpoints go here; fit goes on from the newest checkpoint in it, if there is one",
        )

        parser.add_argument(
            "--trackers",
            type=list[Logger] | None,
            default=None,
            help="loggers beside trainer.logger, as in configs/logger/; none if trainer.logger is false",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Check the keys of the config files, then parse.

        Raises:
            SettingsError: A reference names a setting that does not exist.
        """
        given = sys.argv[1:] if args is None else args
        if isinstance(given, list):
            args = given = [with_new_option(argument) for argument in given]
            subparsers = getattr(self, "_subcommand_parsers", None)
            own: Any = parser if subparsers is None else subparsers.get(given[0] if given else "")
            if own is not None:
                own.check_files(named_config_files(given))
        with warnings.catch_warnings():
            # The other entry points do have a command line of their own.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            try:
                super().parse_arguments(parser, args)
            except OmegaConfBaseException as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise SettingsError(f"{error.full_key}: {reason}; correct the ${{...}}") from error

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning reads settings from its own checkpoint files, and this project's are folders."""

    def before_instantiate_classes(self) -> None:
        """Apply settings that are needed before anything is built."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        check_trainer_settings(config.trainer)
        complete_settings(config)
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        if config.trainer.enable_progress_bar is False and isinstance(config.trainer.callbacks, list):
            # With that setting, Lightning refuses a progress bar in the callbacks; configs/base.yaml has one.
            config.trainer.callbacks = [each for each in config.trainer.callbacks if not _is_progress_bar(each)]
        if config.run_folder is not None:
            write_into(config.trainer, config.run_folder)
        elif self.subcommand in EVALUATIONS:
            write_beside_runs(config.trainer, self.subcommand)

    def instantiate_classes(self) -> None:
        """Build trainer, model and data.

        Raises:
            SettingsError: A class refuses its settings or lacks a package.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Given value" not in str(error) and not str(error).startswith("Parser key"):
                raise
            parser: Any = self._parser(self.subcommand)
            raise SettingsError(explain(str(error), parser.keys(), parser.files)) from error

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, and release the run's folder afterwards."""
        self._describe_run_to_trackers(subcommand)
        try:
            super()._run_subcommand(subcommand)
        finally:
            self._lock.release()

    def _describe_run_to_trackers(self, subcommand: str) -> None:
        trackers = [logger for logger in self.trainer.loggers if isinstance(logger, Tracker)]
        if trackers and self.trainer.is_global_zero:
            settings = yaml.safe_load(self._parser(subcommand).dump(self.config[subcommand], skip_none=False))
            for tracker in trackers:
                tracker.set_run(log_folder(self.trainer), settings)

    def before_fit(self) -> None:
        """Lock the run's folder. The newest checkpoint in ``--run_folder``, if any, replaces ``--ckpt_path``."""
        config = self.config_init[self.subcommand]
        trainer: Any = self.trainer  # Lightning sets callbacks where a type checker does not see it
        self._lock = RunLock(log_folder(trainer))
        trainer.callbacks.insert(0, RefuseFolderInUse(self._lock, trainer))
        if config.run_folder is None:
            return
        newest = newest_checkpoint(Path(config.checkpoint.folder or Path(config.run_folder, "checkpoints")))
        trainer.callbacks.insert(0, RefuseDifferentCheckpoints(newest))
        if newest is not None:
            if config.ckpt_path:
                rank_zero_info(f"The run has begun: {config.ckpt_path} is where it started, and is not read again")
            rank_zero_info(f"Going on from {newest}")
            config.ckpt_path = str(newest)

    def before_validate(self) -> None:
        """Warn if the model is untrained."""
        self._warn_of_untrained()

    before_test = before_predict = before_validate

    def _warn_of_untrained(self) -> None:
        config = self.config[self.subcommand]
        parts = [] if config.ckpt_path else untrained_parts(config.model.as_dict())
        if parts:
            rank_zero_info(warning_of(parts, str(self.subcommand)))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; ``trainer.strategy: auto`` is one of this project's strategies.

        Raises:
            SettingsError: Lightning refuses the settings, or the device does not exist.
        """
        settings = self._get(self.config_init, "trainer")
        try:
            if settings["strategy"] == "auto":
                kwargs["strategy"] = replicated_strategy(
                    settings["accelerator"], settings["devices"], settings["num_nodes"]
                )
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError) as error:
            raise SettingsError(explain_trainer(str(error), settings["accelerator"], settings["devices"])) from error
        if isinstance(trainer.logger, Tracker):
            raise SettingsError(
                f"trainer.logger: a {type(trainer.logger).__name__} has no folder for the run's files; name it under "
                "trackers, as in configs/logger/, and leave trainer.logger as it is"
            )
        if trainer.loggers:  # trainer.logger: false logs nothing
            trainer.loggers = [*trainer.loggers, *(self._get(self.config_init, "trackers") or [])]
        added: Any = trainer  # Lightning sets callbacks where a type checker does not see it
        added.callbacks[0:0] = [EndOnSigterm(), *self._summaries()]
        if isinstance(trainer.strategy, PortableCheckpoints):
            config = self.config[self.subcommand] if self.subcommand else self.config
            trainer.strategy.run_config = self._parser(self.subcommand).dump(config, skip_none=False)
        return trainer

    def _summaries(self) -> list[Callback]:
        """What prints the results of the subcommand."""
        if self.subcommand == "fit":
            return [RunSummary()]
        shows_scores = self.subcommand in _SCORED and self._get(self.config, "verbose")
        return [EvaluationSummary()] if shows_scores else []

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Arguments of the trainer's method; ``--ckpt_path last`` is the newest checkpoint of the runs of this name.

        Raises:
            FileNotFoundError: There is none, so an untrained model would be evaluated.
        """
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in _SCORED:
            arguments["verbose"] = False  # EvaluationSummary prints the scores in place of Lightning's table
        if arguments.get("ckpt_path") == "last":
            runs = folder_of_runs(self.trainer)
            newest = newest_checkpoint(*runs.glob("checkpoints"), *runs.glob("*/checkpoints"))
            if newest is None and subcommand != "fit":
                raise FileNotFoundError(f"--ckpt_path last: there is no checkpoint in the runs of {runs}")
            rank_zero_info(f"--ckpt_path last: {newest or f'no checkpoint in the runs of {runs} yet, from the start'}")
            arguments["ckpt_path"] = newest
        return arguments


class CommandLineReader(VideoLanguageCLI):
    """Reads a command line into ``config`` and does nothing else: nothing is built, seeded, run or written."""

    def _set_seed(self) -> None:
        pass

    def before_instantiate_classes(self) -> None:
        """Check the trainer's settings."""
        check_trainer_settings(self.config[self.subcommand].trainer)

    def instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def _is_progress_bar(callback: Any) -> bool:
    return issubclass(pkgutil.resolve_name(callback.class_path), ProgressBar)


def _parser_options() -> dict[str, Any]:
    """Options of all parsers, and a short usage for each subcommand: the long one would hide the error message.

    Raises:
        FileNotFoundError: The file of defaults is missing; a run without them would have other settings.
    """
    if not DEFAULTS.is_file():
        raise FileNotFoundError(f"{DEFAULTS}, the defaults of every run, is missing; install from a complete checkout")
    mode = {"parser_mode": PARSER_MODE}
    usage = "train.py {} [-c FILE ...] [--KEY VALUE ...]"
    every = {**mode, "default_config_files": [str(DEFAULTS)]}
    return {**mode, **{name: {**every, "usage": usage.format(name)} for name in LightningCLI.subcommands()}}
