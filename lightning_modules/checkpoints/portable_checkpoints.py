"""A mixin with which a Lightning strategy writes and reads this project's checkpoints."""

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
from components.checkpoints.exported_weights import open_weights
from components.checkpoints.frozen_parts_check import (
    language_tokenizer,
    part_of,
    refuse_other_frozen_weights,
    refuse_other_tokenizer,
    take_fingerprints,
)
from components.checkpoints.parameter_access import DirectAccess, ParameterAccess
from components.checkpoints.renamed_part import RenamedPart
from components.checkpoints.restoring import SavedWeights, refuse_misfit, restore_optimizer, restore_weights
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
from components.streams import MEMORY_STREAM
from lightning_modules.checkpoints.zero_access import ZeroAccess
from lightning_modules.rank_agreement import sum_over_ranks

if TYPE_CHECKING:
    _Base = Strategy
else:
    _Base = object

_SAME_STREAM = {"model.bridge": f"model.{MEMORY_STREAM}", f"model.{MEMORY_STREAM}": "model.bridge"}
"""The reader of the stream ``memory`` has these two names: one in the short form of a config, one among several."""
_TENSORS = "tensors"
"""Key of the open checkpoint in the dict that Lightning passes from ``load_checkpoint`` to the other methods."""


class PortableCheckpoints(_Base):
    """Lets a strategy write checkpoints that any other strategy can open, with any number of ranks.

    It must be the first base class of the strategy. ``components.checkpoints.run_checkpoint`` describes the format.

    Attributes:
        save_frozen: Whether to store parameters that do not train. Otherwise they are loaded from the files of the
            parts again.
        run_config: The run's config as YAML; stored in every checkpoint.
    """

    global_rank: int
    world_size: int
    save_frozen: bool = False
    run_config: str | None = None
    _changed: frozenset[str] = frozenset()  # parameters that may differ from their initial values
    _fingerprints: Mapping[str, WeightFingerprint] = MappingProxyType({})  # of parameters that never change
    _tokenizer: dict[str, str] | None = None  # hashes of the language model's tokenizer

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint folder; every rank must call it.

        Raises:
            TypeError: ``storage_options`` are given, which a folder does not have.
            ValueError: The path is in an object store; a checkpoint is a folder on a disk that all nodes share.
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
        """Open a checkpoint. Its tensors are read later, when model and optimizer are restored.

        Raises:
            ValueError: It is damaged (see ``RunCheckpoint``), or its run had other settings (see
                ``refuse_other_settings``).
            RuntimeError: Another rank could not open it.
        """
        opened = self._open_together(Path(self.broadcast(str(checkpoint_path))))
        refuse_other_settings(opened.path, self.run_config)
        return {**opened.state(), _TENSORS: opened, "state_dict": {}}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Restore the weights. Always strict, see ``refuse_misfit`` and ``refuse_other_frozen_weights``."""
        opened: RunCheckpoint = checkpoint[_TENSORS]
        refuse_other_tokenizer(opened, self._tokenizers())
        self._restore_weights(opened)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the optimizer."""
        module, access = self._module_and_access()
        [described] = checkpoint["optimizer_states"]
        restore_optimizer(module, access, checkpoint[_TENSORS], described)

    def load_weights(self, source: str | Path | Mapping[str, str | Path]) -> None:
        """Load the weights of other runs at the start of a new run (step 0, new optimizer).

        Every rank must call it after the strategy is set up, for example in ``on_fit_start``.

        Args:
            source: A checkpoint or an export, to load all of its parts; or a mapping from part to checkpoint or export,
                such as ``{"bridge": CHECKPOINT}``. Weights that are not stored, because they did not train, keep their
                initial values, which must be the same as in that run. A reader ``memory`` may begin with the ``bridge``
                of a run with one reader, and the other way round.

        Raises:
            ValueError: A checkpoint does not match the model (see ``refuse_misfit``), does not have the part, or was
                trained with other frozen weights or another tokenizer.
        """
        sources = {None: source} if isinstance(source, str | Path) else dict(source)
        names = [name for name, _ in self._module_and_access()[0].model.named_children()]
        strangers = sorted(part for part in sources if part is not None and part not in names)
        if strangers:
            raise ValueError(f"model.initial_weights names the parts {strangers}; the model has {sorted(names)}")
        for part, path in sources.items():
            opened = open_weights(Path(self.broadcast(str(path))))
            self._start_from(opened, None if part is None else f"model.{part}")

    def _start_from(self, opened: SavedWeights, part: str | None) -> None:
        stored = {part_of(name) for name in opened.parameters}
        other_name = None if part is None else _SAME_STREAM.get(part)
        if part is not None and part not in stored and other_name in stored:
            opened = RenamedPart(opened, other_name, part)
            stored = {part}
        if part is not None and part not in stored:
            raise ValueError(
                f"{opened.path} has no weights of {part}, because it did not train there; it has weights of "
                f"{sorted(stored)}. Leave that part out of model.initial_weights: it is loaded from its own path"
            )
        tokenizer = language_tokenizer(self.lightning_module)
        if tokenizer is not None and part in (None, "model.language_model"):
            # A new run may have another chat template. Token ids must be the same: they are rows of the embeddings.
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
        """An empty dict: ``save_checkpoint`` gathers the tensors one by one."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The part of the optimizer's state that is not tensors, see ``describe_optimizer``."""
        module, access = self._module_and_access()
        return describe_optimizer(module, access)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: Lightning calls ``load_optimizer_state_dict`` for every strategy."""
        return True

    def _restore_weights(self, checkpoint: SavedWeights, parts: Collection[str] | None = None) -> None:
        module, access = self._module_and_access()
        refuse_misfit(module, access, checkpoint, parts)
        found = refuse_other_frozen_weights(module, access, checkpoint, self._sum_over_ranks, parts)
        self._fingerprints = {**self._fingerprints, **found}
        restore_weights(module, access, checkpoint, parts=parts)
        self._changed |= {name for name in checkpoint.parameters if parts is None or part_of(name) in parts}

    def _open_together(self, path: Path) -> RunCheckpoint:
        """Open a checkpoint on all ranks; they divide the hashing of its files."""
        opened, failure = None, None
        try:
            opened = RunCheckpoint(path, rank=self.global_rank, num_ranks=self.world_size)
        except (OSError, ValueError) as error:  # reported to the other ranks first, which wait for this one
            failure = error
        all_succeeded = self.reduce_boolean_decision(failure is None)
        if failure is not None:
            raise failure
        if opened is None or not all_succeeded:
            raise RuntimeError(f"another rank could not open {path}; its message says why")
        return opened

    def _fingerprints_of(self, names: Collection[str]) -> dict[str, WeightFingerprint]:
        """Fingerprints of parameters that never change; each is computed once."""
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
        """The tokenizers of model and data, by setting.

        The start check compares the two for ``HuggingFaceCausalLM`` only, so both are compared with the checkpoint.
        """
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
        """The module, and access to its parameters.

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
