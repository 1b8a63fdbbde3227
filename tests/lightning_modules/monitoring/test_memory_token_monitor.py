from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from components.bridges.mean_pooling import MeanPooling
from components.building import ReaderSettings
from datamodules.batch import Batch, collate
from lightning_modules.monitoring import MemoryTokenMonitor
from lightning_modules.monitoring.effective_rank import effective_rank
from lightning_modules.optimization import Optimization
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_models import PartFolders, make_batch, make_bridge, make_module, make_sample
from tests.fixtures_streams import make_module_of_streams
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer


def train(folder: Path, module: VideoLanguageModule, batch: Batch, **options: Any) -> RecordingLogger:
    logger = RecordingLogger()
    settings = {"max_steps": 4, "log_every_n_steps": 2, "logger": logger, "callbacks": [MemoryTokenMonitor()]} | options
    make_trainer(folder, **settings).fit(module, make_loader([batch] * 4))
    return logger


def last_memory(module: VideoLanguageModule, batch: Batch, stream: str = "memory") -> torch.Tensor:
    module.configure_model()
    model = module.built
    with torch.no_grad():
        features = model.encoder(batch.frames, batch.frame_counts)
        states = model.run_segments(features, batch.frame_ms, model.segment(features, batch.frame_counts))[-1]
    return states[stream].reader.memory  # type: ignore[no-any-return]


def test_norm_and_rank_are_those_after_the_last_segment(folders: PartFolders, tmp_path: Path) -> None:
    module, batch = make_module(folders), make_batch(folders)
    memory = last_memory(module, batch)
    logger = train(tmp_path, module, batch, max_steps=1, log_every_n_steps=1)
    assert logger.values("memory_tokens/norm") == pytest.approx([float(memory.norm(dim=-1).mean())])
    assert logger.values("memory_tokens/effective_rank") == pytest.approx([float(effective_rank(memory).mean())])
    assert not logger.values("memory_tokens/admitted_segments")


def test_every_named_reader_that_has_a_memory_has_curves_of_its_own(folders: PartFolders, tmp_path: Path) -> None:
    small = ReaderSettings(partial(make_bridge, num_memory=2))
    readers = {"memory": ReaderSettings(make_bridge), "frames": ReaderSettings(MeanPooling), "small": small}
    rates = dict.fromkeys([*readers, "language_model"], 1e-3)
    module = make_module_of_streams(
        folders, readers=readers, visual_prompt=None, optimization=Optimization(learning_rates=rates)
    )
    batch = make_batch(folders)
    memories = {name: last_memory(module, batch, name) for name in ("memory", "small")}
    logger = train(tmp_path, module, batch, max_steps=1, log_every_n_steps=1)
    for name, memory in memories.items():
        assert logger.values(f"memory_tokens/{name}/norm") == pytest.approx([float(memory.norm(dim=-1).mean())])
        rank = float(effective_rank(memory).mean())
        assert logger.values(f"memory_tokens/{name}/effective_rank") == pytest.approx([rank])
    curves = {name for _, values in logger.logged for name in values if name.startswith("memory_tokens")}
    assert curves == {f"memory_tokens/{name}/{value}" for name in memories for value in ("norm", "effective_rank")}


def test_only_logged_steps_are_listened_to(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders)
    logger = train(tmp_path, module, make_batch(folders))
    assert [step for step, values in logger.logged if "memory_tokens/norm" in values] == [1, 3]
    assert not module.built.bridge._forward_hooks


def test_share_of_admitted_segments_is_logged_for_a_selective_memory(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders, bridge=partial(make_bridge, recurrence="selective"))
    torch.nn.init.constant_(module.built.bridge.update.of_memory.bias, -100.0)  # opens for no segment but the first
    logger = train(tmp_path, module, make_batch(folders), max_steps=1, log_every_n_steps=1)
    # 3 + 1 + 4 segments, the first of each of 3 videos is admitted.
    assert logger.values("memory_tokens/admitted_segments") == pytest.approx([3 / 8])


def test_bridge_without_memory_and_batch_without_video_log_nothing(folders: PartFolders, tmp_path: Path) -> None:
    words = collate([make_sample(folders, "text", None, [[("say hello", "hello")]])])
    for module, batch in (
        (make_module(folders, bridge=MeanPooling), make_batch(folders)),
        (make_module(folders), words),
    ):
        logger = train(tmp_path, module, batch)
        assert not [name for _, values in logger.logged for name in values if name.startswith("memory_tokens")]
