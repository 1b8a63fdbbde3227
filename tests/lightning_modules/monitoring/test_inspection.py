import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.bridges.mean_pooling import MeanPooling
from components.bridges.readouts.cache import CacheReadout
from components.bridges.readouts.cache_and_memory import CacheAndMemoryReadout
from components.bridges.readouts.retrieved import RetrievedReadout
from components.building import ReaderSettings
from components.encoders.cached import CachedFeatures
from components.interfaces import Readout
from datamodules.batch import Batch, collate
from lightning_modules.monitoring import VideoInspection, inspection
from tests.fixtures_models import (
    NUM_PATCHES,
    VISION_WIDTH,
    PartFolders,
    make_batch,
    make_bridge,
    make_frames,
    make_module,
    make_sample,
)
from tests.fixtures_streams import Asked, make_media_batch, make_module_of_streams
from tests.fixtures_training import make_loader, make_trainer


def validate_with_tensorboard(
    folder: Path, module: LightningModule, sets: list[list[Batch]], num_videos: int = 2
) -> EventAccumulator:
    logger = TensorBoardLogger(folder, name="", version="")
    trainer = make_trainer(folder, logger=logger, callbacks=[VideoInspection(num_videos)])
    trainer.validate(module, [make_loader(batches) for batches in sets], verbose=False)
    logger.finalize("success")
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "histograms": 0})
    return events.Reload()


def text(events: EventAccumulator, tag: str) -> str:
    [event] = events.Tensors(f"{tag}/text_summary")
    return bytes(event.tensor_proto.string_val[0]).decode()


def test_first_videos_of_every_set_are_shown(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders)
    batch = make_batch(folders)
    events = validate_with_tensorboard(tmp_path, module, [[batch], [batch]])
    shown = {f"videos/{name}/{key}" for name in "01" for key in ("two-questions", "image")}
    assert set(events.Tags()["images"]) == shown
    [picture] = events.Images("videos/0/two-questions")
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert picture.width > 500


def test_questions_references_and_answers_stand_as_text(folders: PartFolders, tmp_path: Path) -> None:
    module, batch = make_module(folders), make_batch(folders)
    answers = module.built.answer_turns(batch, 3)
    events = validate_with_tensorboard(tmp_path, module, [[batch]])
    rows = text(events, "answers/0/two-questions").splitlines()
    assert rows[0] == "| question | reference | generated |"
    assert rows[2:] == [
        f"| which colour ? | red | {answers[0]} |",
        f"| which shape ? | circle | {answers[1]} |",
        f"| and then ? | blue square | {answers[2]} |",
    ]
    assert f"| how many ? | one two | {answers[4]} |" in text(events, "answers/0/image")


def test_videos_go_by_the_file_that_they_were_made_from(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two samples of one file are told apart by their keys; a shard without names shows keys."""
    titles = []
    draw_video = inspection.draw_video
    monkeypatch.setattr(inspection, "draw_video", lambda video: titles.append(video.title) or draw_video(video))
    dialogue = [[("which colour ?", "red")]]
    named = [make_sample(folders, key, make_frames(2), dialogue, meta={"media": "in/my cat.mp4"}) for key in "ab"]
    batch = collate([*named, make_sample(folders, "c", make_frames(2), dialogue)])
    events = validate_with_tensorboard(tmp_path, make_module(folders), [[batch]], num_videos=3)
    tags = ["in/my_cat.mp4/a", "in/my_cat.mp4/b", "c"]
    assert set(events.Tags()["images"]) == {f"videos/0/{tag}" for tag in tags}
    assert "which colour" in text(events, "answers/0/in/my_cat.mp4/a")
    assert titles == ["in/my cat.mp4 (a)", "in/my cat.mp4 (b)", "c"]


def test_segment_counts_of_all_videos_are_in_the_histogram(folders: PartFolders, tmp_path: Path) -> None:
    batch = make_batch(folders)  # videos of 5, 1 and 7 frames, two frames a segment: 3, 1 and 4 segments
    events = validate_with_tensorboard(tmp_path, make_module(folders), [[batch, batch]], num_videos=1)
    [histogram] = events.Histograms("segments_a_video/0")
    assert histogram.histogram_value.num == 6
    assert histogram.histogram_value.sum == 2 * (3 + 1 + 4)
    assert (histogram.histogram_value.min, histogram.histogram_value.max) == (1, 4)


def test_batches_without_media_are_passed_over(folders: PartFolders, tmp_path: Path) -> None:
    words = collate([make_sample(folders, "text", None, [[("say hello", "hello")]])])
    events = validate_with_tensorboard(tmp_path, make_module(folders), [[words, make_batch(folders)]], num_videos=1)
    assert events.Tags()["images"] == ["videos/0/two-questions"]


@pytest.mark.parametrize("changes", [{}, {"bridge": MeanPooling}], ids=["attention", "no_attention"])
def test_cached_features_are_shown_without_pixels(
    folders: PartFolders, tmp_path: Path, changes: dict[str, Any]
) -> None:
    module = make_module(folders, encoder=lambda: CachedFeatures(VISION_WIDTH, NUM_PATCHES), **changes)
    features = torch.randn(6, 1 + NUM_PATCHES, VISION_WIDTH).bfloat16()
    batch = collate([make_sample(folders, "cached", features, [[("which colour ?", "red")]])])
    events = validate_with_tensorboard(tmp_path, module, [[batch]])
    assert events.Tags()["images"] == ["videos/0/cached"]


def test_listening_ends_with_the_validation_and_changes_no_result(folders: PartFolders, tmp_path: Path) -> None:
    module, batch = make_module(folders), make_batch(folders)
    loss = module.built(batch).loss
    validate_with_tensorboard(tmp_path, module, [[batch]])
    assert not module.built.encoder._forward_hooks
    assert not module.built.bridge._forward_hooks
    assert torch.equal(module.built(batch).loss, loss)


def test_listening_ends_when_validation_fails(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders)
    batch = make_batch(folders)
    broken = batch._replace(video_index=batch.video_index + 5)
    with pytest.raises(ValueError, match="out of step"):
        validate_with_tensorboard(tmp_path, module, [[broken]])
    assert not module.built.bridge._forward_hooks


def test_every_validation_of_a_run_is_shown_at_its_step(folders: PartFolders, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    keep = ModelCheckpoint(tmp_path / "checkpoints")
    shows = VideoInspection(1)
    options = {"val_check_interval": 2, "enable_checkpointing": True, "callbacks": [shows, keep]}
    trainer = make_trainer(tmp_path, 4, logger=logger, **options)
    batches = [make_batch(folders)]
    trainer.fit(make_module(folders), make_loader(batches * 4), make_loader(batches))
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("videos/0/two-questions")] == [2, 4]


def test_logger_without_pictures_is_warned_of_once(folders: PartFolders, tmp_path: Path) -> None:
    module, loader = make_module(folders), make_loader([make_batch(folders)])
    trainer = make_trainer(tmp_path, logger=CSVLogger(tmp_path), callbacks=[VideoInspection()])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            trainer.validate(module, loader, verbose=False)
    [message] = [str(warning.message) for warning in caught if "VideoInspection" in str(warning.message)]
    assert "none of the loggers ['CSVLogger'] takes figures and text. Add a TensorBoardLogger" in message


def test_number_of_videos_must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_videos must be at least 1, got 0"):
        VideoInspection(0)


def test_videos_that_are_shown_are_not_computed_twice(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(folders)
    calls = []
    forward = module.built.encoder.forward
    monkeypatch.setattr(module.built.encoder, "forward", lambda *args: calls.append(1) or forward(*args))
    validate_with_tensorboard(tmp_path, module, [[make_batch(folders)]])
    assert len(calls) == 1


@pytest.mark.parametrize("readout", [CacheAndMemoryReadout, CacheReadout, RetrievedReadout])
def test_frames_of_the_right_video_are_drawn(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readout: type[Readout]
) -> None:
    drawn = []
    draw_video = inspection.draw_video
    monkeypatch.setattr(inspection, "draw_video", lambda video: drawn.append(video) or draw_video(video))
    module = make_module(folders, bridge=partial(make_bridge, readout=readout))
    validate_with_tensorboard(tmp_path, module, [[make_batch(folders)]], num_videos=3)
    assert [video.title for video in drawn] == ["two-questions", "image", "long"]
    for video, seed, num_frames in zip(drawn, (1, 2, 3), (5, 1, 7), strict=True):
        assert torch.equal(video.frames, make_frames(num_frames, seed=seed))
        assert video.segment_index.tolist() == [frame // 2 for frame in range(num_frames)]
        assert video.similarity.shape == video.depth.shape == (num_frames - 1,)
        num_segments = -(-num_frames // 2)
        assert video.segment_attention.shape == (16, num_segments)
        torch.testing.assert_close(video.segment_attention.sum(dim=1), torch.ones(16))


def test_attention_of_the_first_reader_that_shows_it_is_drawn(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    draw_video = inspection.draw_video
    monkeypatch.setattr(inspection, "draw_video", lambda video: drawn.append(video) or draw_video(video))
    readers = {"frames": ReaderSettings(MeanPooling), "memory": ReaderSettings(make_bridge)}
    events = validate_with_tensorboard(
        tmp_path, make_module_of_streams(folders, readers=readers), [[make_batch(folders)]]
    )
    assert [video.segment_attention.shape for video in drawn] == [(16, 3), (16, 1)]
    [histogram] = events.Histograms("segments_a_video/0")
    assert histogram.histogram_value.num == 3


@pytest.mark.parametrize("readout", [CacheReadout, RetrievedReadout])
def test_media_of_one_sample_are_shown_one_by_one_with_the_questions_about_each(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readout: type[Readout]
) -> None:
    drawn = []
    draw_video = inspection.draw_video
    monkeypatch.setattr(inspection, "draw_video", lambda video: drawn.append(video) or draw_video(video))
    media = [make_frames(5, seed=1), make_frames(1, seed=2), make_frames(3, seed=3)]
    asked = [
        Asked((0, 1), "which colour ?", "red"),
        Asked((1,), "how many ?", "one"),
        Asked((2,), "what ?", "", "other"),
    ]
    module = make_module(folders, bridge=partial(make_bridge, readout=readout))
    batch = make_media_batch(folders, media, asked)
    events = validate_with_tensorboard(tmp_path, module, [[batch]], num_videos=3)
    assert set(events.Tags()["images"]) == {"videos/0/several/0", "videos/0/several/1", "videos/0/other"}
    assert [video.title for video in drawn] == ["several/0", "several/1", "other"]
    assert all(torch.equal(video.frames, frames) for video, frames in zip(drawn, media, strict=True))
    assert [video.segment_attention.shape[1] for video in drawn] == [3, 1, 2]
    first, second = (text(events, f"answers/0/several/{number}") for number in (0, 1))
    assert "which colour" in first
    assert "how many" not in first
    assert "which colour" in second
    assert "how many" in second


def test_what_sharded_weights_would_be_needed_for_is_left_out(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank alone must not call what gathers weights: the others would never come."""
    drawn = []
    draw_video = inspection.draw_video
    monkeypatch.setattr(inspection, "draw_video", lambda video: drawn.append(video) or draw_video(video))
    module = make_module(folders, bridge=partial(make_bridge, readout=RetrievedReadout))
    batch = make_batch(folders)
    for parameter in module.parameters():
        parameter.ds_id = 0  # as ZeRO-3 marks them
    calls: list[int] = []
    embed = module.built.language_model.embed
    monkeypatch.setattr(module.built.language_model, "embed", lambda ids: calls.append(1) or embed(ids))
    validate_with_tensorboard(tmp_path, module, [[batch]])
    calls_with_pictures = len(calls)
    calls.clear()
    trainer = make_trainer(tmp_path)
    trainer.validate(module, make_loader([batch]), verbose=False)
    assert calls_with_pictures == len(calls)
    assert [video.segment_attention for video in drawn] == [None, None]
    assert drawn[0].similarity.numel() > 0
