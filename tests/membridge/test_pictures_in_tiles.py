"""A model that shows pictures in tiles reads files of pictures so, wherever its folder is opened."""

import math
from functools import partial
from pathlib import Path

import pytest

import membridge
from components.interfaces import VideoTextBatch, VisualTokens
from components.model import VideoLanguageModel
from components.newline import Newline
from components.pictures.tile_layout import TileLayout
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.projectors.mlp import MlpProjector
from tests.fixtures_data import make_clip, make_image
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_batch, make_model


def build(folders: PartFolders) -> VideoLanguageModel:
    layout = partial(TileLayout, tile_size=IMAGE_SIZE, per_side=2)
    model = make_model(folders, projector=MlpProjector, newline=Newline, picture_layout=layout)
    model.training_facts = TrainingFacts(FrameSettings(fit="stretch", num_frames=4))
    return model


def test_a_picture_is_answered_from_its_tiles_and_a_video_from_its_streams(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(folders).save_pretrained(tmp_path / "model")
    model = membridge.load(tmp_path / "model")
    assert model.training_facts.frames == FrameSettings(IMAGE_SIZE, "stretch", 4, tiles_per_side=2)
    assert "2 x 2 tiles" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    shown, seen = model.visual_tokens, []

    def counted(batch: VideoTextBatch) -> VisualTokens:
        visual = shown(batch)
        seen.append(int(visual.mask.sum()))
        return visual

    monkeypatch.setattr(model, "visual_tokens", counted)
    (tmp_path / "picture.png").write_bytes(make_image(90, width=2 * IMAGE_SIZE, height=2 * IMAGE_SIZE))
    (tmp_path / "video.mp4").write_bytes(make_clip(5))
    for name in ("picture.png", "video.mp4"):
        model.answer(tmp_path / name, "which colour ?", max_new_tokens=2)
    side = math.isqrt(model.encoder.num_patches)
    assert seen[0] == side**2 + 2 * side * (2 * side + 1)
    assert seen[1] == int(make_model(folders, projector=MlpProjector).visual_tokens(make_batch(folders)).mask[0].sum())


def test_a_folder_with_other_tiles_than_its_layout_is_not_written(folders: PartFolders, tmp_path: Path) -> None:
    facts = TrainingFacts(FrameSettings(tiles_per_side=3))
    model, plain = build(folders), make_model(folders)
    model.training_facts = plain.training_facts = facts
    with pytest.raises(ValueError, match=r"per_side 3, but model\.picture_layout has"):
        model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"model\.picture_layout, which shows them, is not set"):
        plain.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
