"""DeepSpeed's ZeRO with typed settings, on CUDA devices and on the CPU."""

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
    """Spreads over the ranks what plain data parallel training holds on each of them.

    Stage 1 spreads the optimizer's states, stage 2 the gradients too, stage 3 the weights as well: they are gathered
    module by module where they are needed and freed again, and no rank ever holds the whole model, not even while it
    is built. In half precision the optimizer works on float32 weights of its own.

    ZeRO keeps ``trainer.gradient_clip_val`` and ``trainer.accumulate_grad_batches``. On the CPU it serves tests.

    Args:
        stage: What is spread, see above.
        offload_optimizer: Keep the optimizer's states and its step on the host.
        offload_parameters: Keep the weights on the host too while they are not needed; stage 3 only.
        pin_memory: Page-locked host memory for what is offloaded: faster, and never swapped out.
        reduce_bucket_size: Elements of gradients that are reduced at once.
        gather_bucket_size: Elements of weights that are gathered at once: after a step in stages 1 and 2, ahead of
            their use in stage 3.
        overlap_communication: Communicate while backward computes; takes memory for two buckets more.
        communication_dtype: Dtype in which gradients are reduced; that of the weights by default.
        persistent_elements: Weights of at most this many elements stay gathered in stage 3: norms and biases are not
            worth a call each.
        timeout_minutes: How long a rank waits for the others in one call before the run fails.

    Raises:
        ImportError: DeepSpeed is not installed.
        ValueError: The stage is none of 1, 2 and 3, or does not spread the weights that it is to offload.

    Source: ZeRO (arXiv:1910.02054), ZeRO-Offload (arXiv:2101.06840).
    """

    nested_checkpoints = False  # DeepSpeed finds the weights of the inner ones freed

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
            zero["memory_efficient_linear"] = False  # it replaces torch's linear for the whole process, for good
        else:
            zero["allgather_bucket_size"] = gather_bucket_size
        if offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pin_memory}
        if offload_parameters:
            zero["offload_param"] = {"device": "cpu", "pin_memory": pin_memory}
        config: dict[str, Any] = {
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,  # the optimizer is the module's own
            "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own is compiled when it is first used
            "train_micro_batch_size_per_gpu": 1,  # only feeds DeepSpeed's own figures, which are not shown
        }
        if communication_dtype is not None:
            config["communication_data_type"] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[
                communication_dtype
            ]
        super().__init__(config=config, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """Choose the device and start the ranks' communication.

        Raises:
            RuntimeError: DeepSpeed has settled on another kind of device than the trainer.
        """
        from deepspeed.accelerator import get_accelerator

        assert self.accelerator is not None
        chosen = get_accelerator()._name
        if chosen != self.root_device.type:
            raise RuntimeError(
                f"DeepSpeed runs on {chosen!r}, but trainer.accelerator chose {self.root_device.type!r}: set the "
                f"environment variable DS_ACCELERATOR={self.root_device.type} before the start"
            )
        # Lightning lets DeepSpeed start on CUDA devices only; these are the same steps.
        self.accelerator.setup_device(self.root_device)
        self.setup_distributed()

    def setup_distributed(self) -> None:
        """Start the ranks' communication."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_distributed()
            return
        import deepspeed

        # A faster way for ranks on one host, compiled when it is first used; gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Build the model; in stage 3, each part is spread as soon as it is there.

        DeepSpeed's own context takes a module's weights away at the end of its constructor. What the constructor of
        the module around it then writes into them (initial values of its choice) would be lost without a word.
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
        """Leave this rank's share of every weight; see ``Sharding``. Rank 0's values count."""
        import deepspeed

        precision = self.precision_plugin.precision.split("-")[0]
        wanted = _HALF_PRECISION.get(precision, dtype)
        deepspeed.zero.Init(module=_OneByOne(model, wanted), config_dict_or_path=self.config)

    def largest_of_all_ranks(self, value: int) -> int:
        """See ``Sharding``."""
        return largest_of_all_ranks(value, self.root_device)

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:
        """Run backward. Lightning has divided the loss by the accumulated batches; DeepSpeed must not do so again."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Optimizer]:
        return self._initialize(model, self.config, optimizer=optimizer, lr_scheduler=lr_scheduler)

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        kept = ("train_micro_batch_size_per_gpu", "fp16", "bf16", "zero_allow_untested_optimizer")
        assert isinstance(self.config, dict)
        config = {key: self.config[key] for key in kept if key in self.config}
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
    """Shows DeepSpeed a model's weights one at a time, each converted and in memory of its own just before.

    DeepSpeed writes into a weight before it cuts it up. Into one that is mapped from a file, that would leave a copy
    which lives as long as the mapping: in the end, a whole model.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self._shown = [model]  # in a list: not a child, whose weights would be found in other ways too
        self._dtype = dtype

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        for parameter in self._shown[0].parameters(recurse):
            if not is_zero3_sharded(parameter):
                dtype = self._dtype if self._dtype is not None and parameter.is_floating_point() else parameter.dtype
                parameter.data = parameter.data.to(dtype, copy=True, memory_format=torch.contiguous_format)
            yield parameter


def _prepare_import() -> None:
    """Check that DeepSpeed is there, and tell it before its first import where there is no GPU."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ImportError("strategy Zero needs DeepSpeed: pip install 'membridge[deepspeed]'")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
