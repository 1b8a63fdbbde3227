"""Strategy for PyTorch's fully sharded data parallelism (FSDP2)."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from components.sharding import Sharding, building_sharded, is_dtensor
from lightning_modules.checkpoints.portable_checkpoints import PortableCheckpoints
from lightning_modules.rank_agreement import largest_of_all_ranks
from lightning_modules.strategies.blocks import repeated_blocks
from lightning_modules.video_language import VideoLanguageModule


class Fsdp2(PortableCheckpoints, ModelParallelStrategy, Sharding):
    """Shards weights, gradients and optimizer states over all ranks, like ZeRO-3, without DeepSpeed.

    Weights are gathered and freed in units: each layer of encoder and language model is a unit, the remaining weights
    of such a part are one unit, and every other part is one unit. While the model is built, each rank has at most one
    complete block in memory.

    With ``trainer.precision: bf16-mixed`` weights are stored in float32 and gathered in bfloat16.

    Args:
        free_after_forward: Free a block's weights after its forward pass and gather them again for its backward pass.
            If False, they stay in memory between the two: less communication, more memory.
        offload: Keep weights, gradients and optimizer states in CPU memory while they are not needed; CUDA only.
        reduce_dtype: Dtype in which gradients are reduced with ``bf16-mixed``.
        block_classes: Names of the blocks' classes in encoder and language model; by default they are detected, see
            ``repeated_blocks``.
        process_group_backend: ``nccl`` or ``gloo``; by default it depends on the device.
        timeout_minutes: Time after which a communication that waits for other ranks fails.
    """

    def __init__(
        self,
        *,
        free_after_forward: bool = True,
        offload: bool = False,
        reduce_dtype: Literal["float32", "bfloat16"] = "float32",
        block_classes: Sequence[str] | None = None,
        process_group_backend: str | None = None,
        timeout_minutes: float = 30,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.free_after_forward = free_after_forward
        self.offload = offload
        self.reduce_dtype: torch.dtype = getattr(torch, reduce_dtype)
        self.block_classes = block_classes
        self._sharded_classes: set[str] = set()

    def setup_environment(self) -> None:
        """Start the communication; weights are sharded over all ranks of all nodes.

        Raises:
            ValueError: ``offload`` is set, but the device is the CPU.
        """
        if self.offload and self.root_device.type == "cpu":
            raise ValueError("offload moves weights to CPU memory, but trainer.accelerator is the CPU: drop it")
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Build the model; each part is sharded as soon as it is built.

        Raises:
            ValueError: No block has one of the classes in ``block_classes``: units would be larger than intended.
        """
        with building_sharded(self):
            yield
        assert self.lightning_module is not None
        for name, part in _parts_of(self.lightning_module):
            if name in ("encoder", "language_model"):
                self.shard(part, None)
            if not isinstance(part, FSDPModule) and next(part.parameters(), None) is not None:
                # Weights outside of blocks stay gathered from the first call in a step to the end of its backward pass,
                # because readers are called once per segment.
                self._shard_unit(part, free_after_forward=False)
                for method in getattr(part, "weight_reading_methods", ()):
                    register_fsdp_forward_method(part, method)
        unknown = set(self.block_classes or ()) - self._sharded_classes
        if unknown:
            raise ValueError(
                f"block_classes names {sorted(unknown)}, which no block of encoder or language model is; the blocks "
                f"found are of the classes {sorted(self._sharded_classes)}. Leave block_classes out to have them found"
            )

    def shard(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        """Shard the weights of every block: this rank keeps only its share; see ``Sharding``."""
        for block in repeated_blocks(model, self.block_classes):
            if not isinstance(block, FSDPModule):
                _convert(block, dtype)
                self._sharded_classes.add(type(block).__name__)
                self._shard_unit(block, free_after_forward=self.free_after_forward)
        _convert(model, dtype)

    def largest_of_all_ranks(self, value: int) -> int:
        """See ``Sharding``."""
        return largest_of_all_ranks(value, self.root_device)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step, then free the weights that it gathered, as a backward pass would."""
        return self._freed(super().validation_step(*args, **kwargs))

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Like ``validation_step``."""
        return self._freed(super().test_step(*args, **kwargs))

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """Like ``validation_step``."""
        return self._freed(super().predict_step(*args, **kwargs))

    def _freed(self, output: Any) -> Any:
        assert self.lightning_module is not None
        for _, part in _parts_of(self.lightning_module):
            if isinstance(part, FSDPModule):
                part.reshard()
        return output

    def _shard_unit(self, unit: nn.Module, free_after_forward: bool) -> None:
        options: dict[str, Any] = {"mesh": self.device_mesh["data_parallel"]}
        if self.precision_plugin.precision == "bf16-mixed":
            options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=self.reduce_dtype)
        if self.offload:
            options["offload_policy"] = CPUOffloadPolicy()
        fully_shard(unit, reshard_after_forward=free_after_forward, **options)


def _parts_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    if not isinstance(module, VideoLanguageModule):
        raise TypeError(f"strategy Fsdp2 shards a VideoLanguageModule only, got a {type(module).__name__}")
    found: list[tuple[str, nn.Module]] = []
    for name, part in module.built.named_children():
        # FSDP2 shards modules that are called. The reducers are called one by one.
        found += part.items() if isinstance(part, nn.ModuleDict) else [(name, part)]
    return found


def _convert(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Convert weights, but not buffers: the angles of rotary embeddings must stay float32."""
    for parameter in model.parameters() if dtype is not None else ():
        if parameter.is_floating_point() and parameter.dtype != dtype and not is_dtensor(parameter):
            parameter.data = parameter.data.to(dtype)
