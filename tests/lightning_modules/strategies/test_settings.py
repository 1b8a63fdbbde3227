import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn

from components.bridges.layers.attention import Attention
from components.bridges.layers.post_norm import PostNormAttention
from components.sharding import active_sharding
from lightning_modules.strategies.blocks import repeated_blocks
from lightning_modules.strategies.fsdp2 import Fsdp2
from lightning_modules.strategies.replicated import Ddp, SingleDevice
from lightning_modules.strategies.zero import Zero


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.mixed = nn.ModuleList([nn.Linear(2, 2), nn.LayerNorm(2)])
        self.without_weights = nn.ModuleList([nn.GELU(), nn.GELU()])
        self.head = nn.Linear(2, 2)


def test_blocks_are_the_outermost_repeated_layers() -> None:
    model = Model()
    assert repeated_blocks(model) == list(model.layers)


def test_blocks_can_be_named_by_their_class() -> None:
    model = Model()
    assert repeated_blocks(model, ["LayerNorm"]) == [model.mixed[1]]
    assert repeated_blocks(model, ["Layer", "Linear"]) == [*model.layers, model.mixed[0], model.head]


def test_settings_reach_deepspeed() -> None:
    strategy = Zero(
        3,
        offload_optimizer=True,
        offload_parameters=True,
        pin_memory=True,
        reduce_bucket_size=11,
        gather_bucket_size=12,
        overlap_communication=False,
        communication_dtype="float32",
        persistent_elements=13,
        timeout_minutes=2,
    )
    config: Any = strategy.config
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["reduce_bucket_size"], zero["overlap_comm"]) == (3, 11, False)
    assert (zero["stage3_prefetch_bucket_size"], zero["stage3_param_persistence_threshold"]) == (12, 13)
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert config["communication_data_type"] == "fp32"
    assert strategy._timeout is not None
    assert strategy._timeout.total_seconds() == 120
    assert Zero(2, gather_bucket_size=12).config["zero_optimization"]["allgather_bucket_size"] == 12  # type: ignore[index]


def test_settings_do_not_come_from_a_file_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_DEEPSPEED_CONFIG_PATH", "no/such/file.json")
    assert Zero(1).config["zero_optimization"]["stage"] == 1  # type: ignore[index]


def test_unknown_stage_and_offload_of_whole_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="stage is 4"):
        Zero(4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs stage 3, got stage 2"):
        Zero(2, offload_parameters=True)


def test_missing_deepspeed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'membridge\[deepspeed\]'"):
        Zero(2)


def test_single_device_follows_the_trainer_and_refuses_several() -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = Trainer(devices=1, strategy=SingleDevice(), **quiet)
    assert trainer.strategy.root_device == torch.device("cpu")
    with pytest.raises(ValueError, match="the trainer has 2"):
        Trainer(devices=2, strategy=SingleDevice(), **quiet).strategy.root_device  # noqa: B018  a property


def test_settings_reach_ddp_and_fsdp2() -> None:
    ddp = Ddp(bucket_mb=3, gradients_share_buckets=False, timeout_minutes=2)
    assert ddp._ddp_kwargs == {"bucket_cap_mb": 3, "gradient_as_bucket_view": False}
    fsdp2 = Fsdp2(reduce_dtype="bfloat16", timeout_minutes=2)
    assert fsdp2.reduce_dtype == torch.bfloat16
    assert {each._timeout.total_seconds() for each in (ddp, fsdp2) if each._timeout} == {120}


def test_ddp_leaves_counts_and_texts_of_a_batch_on_the_host() -> None:
    ddp = Ddp()
    ddp.parallel_devices, ddp.cluster_environment = [torch.device("cuda", 0)], LightningEnvironment()
    assert ddp.determine_ddp_device_ids() is None  # with ids, DDP moves every tensor of its inputs


def test_offload_without_a_device_is_refused() -> None:
    trainer = Trainer(accelerator="cpu", devices=1, strategy=Fsdp2(offload=True), logger=False)
    with pytest.raises(ValueError, match="drop it"):
        trainer.strategy.setup_environment()


@pytest.mark.parametrize("part", [partial(Attention, 8, 2), partial(PostNormAttention, 8, 2, 0.0)])
def test_attention_gives_the_same_without_shortcuts(part: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    attention = part().eval()
    queries, context = torch.randn(2, 1, 8), torch.randn(2, 50, 8)
    called: list[nn.Module] = []
    for projection in attention.children():
        projection.register_forward_hook(lambda module, *_: called.append(module))
    shortcut = attention(queries, context, None)
    few_calls = len(called)
    attention.may_skip_unused_compute = False  # type: ignore[assignment]
    torch.testing.assert_close(attention(queries, context, None), shortcut)
    assert len(called) - few_calls > few_calls


def test_nothing_is_sharded_unless_a_strategy_says_so() -> None:
    assert active_sharding() is None
