"""Makes a Lightning strategy write and read this project's checkpoints."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch import Tensor
from torch.optim import Optimizer

from components.checkpoints import atomic_folder
from components.checkpoints.exported_weights import ExportedWeights, open_weights
from components.checkpoints.frozen_parts_check import (
    language_tokenizer,
    part_of,
    refuse_other_frozen_weights,
    refuse_other_tokenizer,
    take_fingerprints,
)
from components.checkpoints.parameter_access import DirectAccess, ParameterAccess
from components.checkpoints.restoring import refuse_misfit, restore_optimizer, restore_weights
from components.checkpoints.run_checkpoint import RunCheckpoint
from components.checkpoints.saving import (
    Content,
    Ranks,
    describe_optimizer,
    parameters_to_leave_out,
    write_checkpoint,
)
from components.checkpoints.settings_check import refuse_other_settings, warn_of_other_settings
from components.checkpoints.tokenizer_fingerprint import tokenizer_fingerprint
from components.checkpoints.weight_fingerprint import WeightFingerprint
from lightning_modules.checkpoints.zero_access import ZeroAccess
from lightning_modules.rank_agreement import sum_over_ranks

if TYPE_CHECKING:
    _Base = Strategy
else:
    _Base = object

_TENSORS = "tensors"
"""Where the trainer's dict carries the open checkpoint from ``load_checkpoint`` to those who read it."""


class PortableCheckpoints(_Base):
    """Checkpoints that every strategy and any number of ranks can open; comes first among a strategy's bases.

    What a checkpoint is, ``components.checkpoints.run_checkpoint`` says.

    Attributes:
        save_frozen: Whether to write parameters too that do not train; otherwise they come from where the parts come
            from when the checkpoint is opened.
        run_config: The run's config as YAML, which goes into every checkpoint.
    """

    global_rank: int
    world_size: int
    save_frozen: bool = False
    run_config: str | None = None
    _changed: frozenset[str] = frozenset()  # parameters that differ from what the parts were built with
    _fingerprints: Mapping[str, WeightFingerprint] = MappingProxyType({})  # of parameters that never change
    _tokenizer: dict[str, str] | None = None  # hashes of the language model's

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint folder; every rank must call it.

        Raises:
            TypeError: There are ``storage_options``, which mean nothing for a folder.
            ValueError: The path is of an object store; a checkpoint is a folder that all nodes see.
        """
        if storage_options is not None:
            raise TypeError(f"got storage_options {storage_options}: a checkpoint is a folder, which has none")
        path = self.broadcast(str(filepath))
        if "://" in path:
            raise ValueError(
                f"cannot write a checkpoint to {path}: it is a folder on a disk that all nodes share. Copy finished "
                "ones to an object store"
            )
        module, access = self._module_and_access()
        self._changed |= {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        left_out = [] if self.save_frozen else parameters_to_leave_out(module, access, self._changed)
        content = Content(
            {key: value for key, value in checkpoint.items() if key != "state_dict"},
            left_out,
            self.run_config,
            self._fingerprints_of(left_out),
            self._tokenizer_hashes(),
        )
        ranks = Ranks(self.global_rank, self.world_size, self.reduce_boolean_decision, self._sum_over_ranks)
        write_checkpoint(Path(path), module, access, content, ranks)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Open a checkpoint; its tensors are read when the model and the optimizer are restored.

        Raises:
            ValueError: It is damaged (see ``RunCheckpoint``), or its run had other settings, see
                ``refuse_other_settings``.
            RuntimeError: Another rank could not open it.
        """
        opened = self._open_together(Path(self.broadcast(str(checkpoint_path))))
        refuse_other_settings(opened.path, self.run_config)
        return {**opened.state(), _TENSORS: opened, "state_dict": {}}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Restore the weights; always strict, see ``refuse_misfit`` and ``frozen_parts_check``."""
        opened: RunCheckpoint = checkpoint[_TENSORS]
        refuse_other_tokenizer(opened, self._tokenizers())
        self._restore_weights(opened)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the optimizer."""
        module, access = self._module_and_access()
        [kept] = checkpoint["optimizer_states"]
        restore_optimizer(module, access, checkpoint[_TENSORS], kept)

    def load_weights(self, source: str | Path | Mapping[str, str | Path]) -> None:
        """Start from the weights of other runs, with a new optimizer and at step 0.

        Every rank must call it, when the strategy is set up: ``on_fit_start`` is a good place.

        Args:
            source: A checkpoint or an export, of which all parts are taken; or several by the part that is taken of
                each, such as ``{"bridge": CHECKPOINT}``. What did not train in it keeps the weights that it was built
                with, which must be those that it was trained beside.

        Raises:
            ValueError: One does not fit the model (see ``restore_weights``), has no such part, or its frozen weights
                or tokens are others.
        """
        sources = {None: source} if isinstance(source, str | Path) else dict(source)
        names = [name for name, _ in self._module_and_access()[0].model.named_children()]
        strangers = sorted(part for part in sources if part is not None and part not in names)
        if strangers:
            raise ValueError(f"model.initial_weights names the parts {strangers}; the model has {sorted(names)}")
        for part, path in sources.items():
            opened = open_weights(Path(self.broadcast(str(path))))
            self._start_from(opened, None if part is None else f"model.{part}")

    def _start_from(self, opened: RunCheckpoint | ExportedWeights, part: str | None) -> None:
        stored = {part_of(name) for name in opened.parameters}
        if part is not None and part not in stored:
            raise ValueError(
                f"{opened.path} has no weights of {part}, for it did not train there; it has weights of "
                f"{sorted(stored)}. Leave that part out of model.initial_weights: it comes from its own path"
            )
        tokenizer = language_tokenizer(self.lightning_module)
        if tokenizer is not None and part in (None, "model.language_model"):
            # A new run may have another chat template; tokens must be the same, for they number rows of the weights.
            tokenizers = {"model.language_model": tokenizer}
            refuse_other_tokenizer(opened, tokenizers, ("vocabulary", "special_ids"))
        if self.is_global_zero and self.run_config is not None:
            warn_of_other_settings(opened.path, yaml.safe_load(self.run_config), part or "")
        self._restore_weights(opened, None if part is None else {part})

    def remove_checkpoint(self, filepath: Any) -> None:
        """Remove a checkpoint."""
        if self.is_global_zero:
            atomic_folder.remove(Path(filepath))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: tensors are brought together one by one when they are written."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What else than tensors there is to keep of the optimizer."""
        module, access = self._module_and_access()
        return describe_optimizer(module, access)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning calls ``load_optimizer_state_dict``, whatever the strategy."""
        return True

    def _restore_weights(
        self, checkpoint: RunCheckpoint | ExportedWeights, parts: Collection[str] | None = None
    ) -> None:
        module, access = self._module_and_access()
        refuse_misfit(module, access, checkpoint, parts)
        found = refuse_other_frozen_weights(module, access, checkpoint, self._sum_over_ranks, parts)
        self._fingerprints = {**self._fingerprints, **found}
        restore_weights(module, access, checkpoint, parts=parts)
        self._changed |= {name for name in checkpoint.parameters if parts is None or part_of(name) in parts}

    def _open_together(self, path: Path) -> RunCheckpoint:
        """Open a checkpoint; its files are hashed by all ranks together."""
        opened, failure = None, None
        try:
            opened = RunCheckpoint(path, rank=self.global_rank, num_ranks=self.world_size)
        except (OSError, ValueError) as error:  # the other ranks wait for this one: it tells them before it stops
            failure = error
        everybody = self.reduce_boolean_decision(failure is None)
        if failure is not None:
            raise failure
        if opened is None or not everybody:
            raise RuntimeError(f"another rank could not open {path}; its message says why")
        return opened

    def _fingerprints_of(self, names: Collection[str]) -> dict[str, WeightFingerprint]:
        """Fingerprints of parameters that never change, each taken once."""
        module, access = self._module_and_access()
        parameters = dict(module.named_parameters())
        new = {name: parameters[name] for name in names if name not in self._fingerprints}
        self._fingerprints = {**self._fingerprints, **take_fingerprints(new, access, self._sum_over_ranks)}
        return {name: self._fingerprints[name] for name in names}

    def _tokenizer_hashes(self) -> dict[str, str] | None:
        tokenizer = language_tokenizer(self.lightning_module)
        if tokenizer is not None and self._tokenizer is None:
            self._tokenizer = tokenizer_fingerprint(tokenizer)._asdict()
        return self._tokenizer

    def _tokenizers(self) -> dict[str, Any]:
        """The tokenizers in use, by the setting that names them."""
        assert self.lightning_module is not None
        datamodule = getattr(self.lightning_module.trainer, "datamodule", None)
        found = {
            "model.language_model": language_tokenizer(self.lightning_module),
            "data.tokenizer": getattr(datamodule, "tokenizer", None),
        }
        return {setting: tokenizer for setting, tokenizer in found.items() if tokenizer is not None}

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        return sum_over_ranks(values, self.root_device)

    def _module_and_access(self) -> tuple[Any, ParameterAccess]:
        """The module and the way to its parameters.

        Raises:
            ValueError: There are several optimizers.
        """
        if len(self.optimizers) > 1:
            raise ValueError(f"checkpoints hold one optimizer, the module has {len(self.optimizers)}")
        optimizer: Any = self.optimizers[0] if self.optimizers else None
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer._optimizer
        if isinstance(self, DeepSpeedStrategy):
            return self.lightning_module, ZeroAccess(optimizer, self.root_device, self.global_rank, self.world_size)
        return self.lightning_module, DirectAccess(optimizer, self.root_device, self.global_rank, self.world_size)
