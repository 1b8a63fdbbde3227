"""Strategy for DeepSpeed's ZeRO, with typed settings, on CUDA devices and (for tests) on the CPU."""

import argparse
import importlib.util
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from components.sharding import Sharding, SkipsUnusedCompute, building_sharded, is_zero3_sharded
from lightning_modules.checkpoints.portable_checkpoints import PortableCheckpoints
from lightning_modules.rank_agreement import largest_of_all_ranks

_HALF_PRECISION = {"bf16": torch.bfloat16, "16": torch.float16}


class Zero(PortableCheckpoints, DeepSpeedStrategy, Sharding):
    """Partitions training state over the ranks, instead of replicating it as DDP does.

    Stage 1 partitions the optimizer's states, stage 2 also the gradients, stage 3 also the weights. In stage 3, weights
    are gathered module by module when they are needed, then freed; no rank ever has the complete model, not even while
    it is built. In half precision, the optimizer has its own float32 copy of the weights.

    ``trainer.gradient_clip_val`` and ``trainer.accumulate_grad_batches`` work as with other strategies.

    Args:
        stage: 1, 2 or 3, see above.
        offload_optimizer: Keep the optimizer's states in CPU memory, and compute its step there.
        offload_parameters: Keep weights in CPU memory while they are not needed; stage 3 only.
        pin_memory: Use page-locked CPU memory for offloading: faster, and never swapped out.
        reduce_bucket_size: Number of gradient elements that are reduced at once.
        gather_bucket_size: Number of weight elements that are gathered at once: after a step in stages 1 and 2, before
            their use in stage 3.
        overlap_communication: Communicate during the backward pass; needs memory for two more buckets.
        communication_dtype: Dtype in which gradients are reduced; by default that of the weights.
        persistent_elements: Weights with at most this many elements are not partitioned in stage 3, to save calls for
            norms and biases.
        timeout_minutes: Time after which a communication that waits for other ranks fails.

    Raises:
        ImportError: DeepSpeed is not installed.
        ValueError: ``stage`` is not 1, 2 or 3, or ``offload_parameters`` is set without stage 3.

    Source: ZeRO (arXiv:1910.02054), ZeRO-Offload (arXiv:2101.06840).
    """

    nested_checkpoints = False  # weights of a nested gradient checkpoint are already freed when it is recomputed

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        *,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        pin_memory: bool = False,
        reduce_bucket_size: int = 200_000_000,
        gather_bucket_size: int = 50_000_000,
        overlap_communication: bool = True,
        communication_dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        persistent_elements: int = 100_000,
        timeout_minutes: float = 30,
    ) -> None:
        if stage not in (1, 2, 3):
            raise ValueError(f"stage is {stage}; ZeRO has stages 1, 2 and 3 (stage 0 is configs/strategy/ddp.yaml)")
        if offload_parameters and stage != 3:
            raise ValueError(f"offload_parameters needs stage 3, got stage {stage}, where every rank keeps all weights")
        _prepare_import()
        zero: dict[str, Any] = {
            "stage": stage,
            "contiguous_gradients": True,
            "overlap_comm": overlap_communication,
            "reduce_bucket_size": reduce_bucket_size,
        }
        if stage == 3:
            zero["stage3_prefetch_bucket_size"] = gather_bucket_size
            zero["stage3_param_persistence_threshold"] = persistent_elements
            zero["memory_efficient_linear"] = False  # it would permanently replace torch's linear function
        else:
            zero["allgather_bucket_size"] = gather_bucket_size
        if offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pin_memory}
        if offload_parameters:
            zero["offload_param"] = {"device": "cpu", "pin_memory": pin_memory}
        config: dict[str, Any] = {
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,  # the optimizer comes from the module's configuration
            "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's CPU optimizer needs a compiler at run time
            "train_micro_batch_size_per_gpu": 1,  # required, but only used in DeepSpeed's statistics, which are off
        }
        if communication_dtype is not None:
            config["communication_data_type"] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[
                communication_dtype
            ]
        super().__init__(config=config, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """Choose the device and start the communication between ranks.

        Raises:
            RuntimeError: DeepSpeed has chosen another type of device than the trainer.
        """
        from deepspeed.accelerator import get_accelerator

        assert self.accelerator is not None
        chosen = get_accelerator()._name
        if chosen != self.root_device.type:
            raise RuntimeError(
                f"DeepSpeed runs on {chosen!r}, but trainer.accelerator chose {self.root_device.type!r}: set the "
                f"environment variable DS_ACCELERATOR={self.root_device.type} before the start"
            )
        # The same steps as in Lightning, without its check that the device is CUDA.
        self.accelerator.setup_device(self.root_device)
        self.setup_distributed()

    def setup_distributed(self) -> None:
        """Start the communication between ranks."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_distributed()
            return
        import deepspeed

        # Faster communication for ranks on one host, but needs a compiler at run time; gloo is used instead.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Build the model; in stage 3, each part is partitioned as soon as it is built.

        DeepSpeed's own context is not used: it partitions a module's weights at the end of its constructor, so that
        initial values that the enclosing module's constructor writes afterwards would be lost silently.
        """
        self._init_config_if_needed()
        if not self.zero_stage_3:
            yield
            return
        with building_sharded(self):
            yield
        assert self.lightning_module is not None
        self.shard(self.lightning_module, None)
        for module in self.lightning_module.modules():
            if isinstance(module, SkipsUnusedCompute):
                module.may_skip_unused_compute = False

    def shard(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        """Partition every weight: this rank keeps only its share of rank 0's values; see ``Sharding``."""
        import deepspeed

        precision = self.precision_plugin.precision.split("-")[0]
        wanted = _HALF_PRECISION.get(precision, dtype)
        deepspeed.zero.Init(module=_OneByOne(model, wanted), config_dict_or_path=self.config)

    def largest_of_all_ranks(self, value: int) -> int:
        """See ``Sharding``."""
        return largest_of_all_ranks(value, self.root_device)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Run the backward pass. DeepSpeed must not scale the loss for gradient accumulation: Lightning already has."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Optimizer]:
        return self._initialize(model, self.config, optimizer=optimizer, lr_scheduler=lr_scheduler)

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        used = ("train_micro_batch_size_per_gpu", "fp16", "bf16", "zero_allow_untested_optimizer")
        assert isinstance(self.config, dict)
        config = {key: self.config[key] for key in used if key in self.config}
        if self.zero_stage_3:
            config["zero_optimization"] = self.config["zero_optimization"]
        self.model, _ = self._initialize(model, config, model_parameters=[])

    def _initialize(self, model: nn.Module, config: Any, **options: Any) -> tuple[Any, Any]:
        import deepspeed

        if "model_parameters" not in options:
            options["model_parameters"] = [p for p in model.parameters() if p.requires_grad]
        device_rank = self.root_device.index or 0  # a CPU has none
        engine, optimizer, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=device_rank),
            config=config,
            model=model,
            dist_init_required=False,
            **options,
        )
        return engine, optimizer


class _OneByOne(nn.Module):
    """Passes a model's weights to DeepSpeed one at a time, each converted and copied just before.

    DeepSpeed writes into a weight before it partitions it. Writing into memory-mapped weights would create private
    copies of their pages that exist as long as the mapping: eventually, of the complete model.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self._model = [model]  # in a list, so that it is not a submodule, whose weights DeepSpeed would also find
        self._dtype = dtype

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        for parameter in self._model[0].parameters(recurse):
            if not is_zero3_sharded(parameter):
                dtype = self._dtype if self._dtype is not None and parameter.is_floating_point() else parameter.dtype
                parameter.data = parameter.data.to(dtype, copy=True, memory_format=torch.contiguous_format)
            yield parameter


def _prepare_import() -> None:
    """Check that DeepSpeed is installed. Without a GPU, select its CPU accelerator before the first import."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ImportError("strategy Zero needs DeepSpeed: pip install 'membridge[deepspeed]'")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
