"""Makes a Lightning strategy write and read this project's checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch.optim import Optimizer

from components.weights.run_checkpoint import RunCheckpoint
from lightning_modules.checkpoints import folder
from lightning_modules.checkpoints.access import DirectAccess, ParameterAccess
from lightning_modules.checkpoints.restoring import restore_optimizer, restore_weights
from lightning_modules.checkpoints.saving import (
    Content,
    Ranks,
    describe_optimizer,
    parameters_to_leave_out,
    write_checkpoint,
)
from lightning_modules.checkpoints.zero_access import ZeroAccess

if TYPE_CHECKING:
    _Base = Strategy
else:
    _Base = object

_TENSORS = "tensors"
"""Where the trainer's dict carries the open checkpoint from ``load_checkpoint`` to those who read it."""


class PortableCheckpoints(_Base):
    """Checkpoints that every strategy and any number of ranks can open; comes first among a strategy's bases.

    What a checkpoint is, ``components.weights.run_checkpoint`` says.

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
        module, access = self._opened()
        self._changed |= {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        left_out = [] if self.save_frozen else parameters_to_leave_out(module, access, self._changed)
        state = {key: value for key, value in checkpoint.items() if key != "state_dict"}
        ranks = Ranks(self.global_rank, self.world_size, self.reduce_boolean_decision)
        write_checkpoint(Path(path), module, access, Content(state, left_out, self.run_config), ranks)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Open a checkpoint; its tensors are read when the model and the optimizer are restored."""
        opened = RunCheckpoint(Path(self.broadcast(str(checkpoint_path))))
        return {**opened.state(), _TENSORS: opened, "state_dict": {}}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Restore the weights; always strict about what trains, see ``restore_weights``."""
        self._restore_weights(checkpoint[_TENSORS])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the optimizer."""
        module, access = self._opened()
        [kept] = checkpoint["optimizer_states"]
        restore_optimizer(module, access, checkpoint[_TENSORS], kept)

    def load_weights(self, path: Path) -> None:
        """Start from the weights of another run's checkpoint, with a new optimizer and at step 0.

        Every rank must call it, when the strategy is set up: ``on_fit_start`` is a good place.

        Args:
            path: A checkpoint. Parts of it that did not train keep the weights that they were built with.

        Raises:
            ValueError: It does not fit the model, see ``restore_weights``.
        """
        self._restore_weights(RunCheckpoint(Path(self.broadcast(str(path)))))

    def remove_checkpoint(self, filepath: Any) -> None:
        """Remove a checkpoint."""
        if self.is_global_zero:
            folder.remove(Path(filepath))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: tensors are brought together one by one when they are written."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What else than tensors there is to keep of the optimizer."""
        module, access = self._opened()
        return describe_optimizer(module, access)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning calls ``load_optimizer_state_dict``, whatever the strategy."""
        return True

    def _restore_weights(self, checkpoint: RunCheckpoint) -> None:
        module, access = self._opened()
        restore_weights(module, access, checkpoint)
        self._changed |= checkpoint.parameters

    def _opened(self) -> tuple[Any, ParameterAccess]:
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
            return self.lightning_module, ZeroAccess(optimizer, self.root_device, self.global_rank)
        return self.lightning_module, DirectAccess(optimizer, self.root_device)
