from pathlib import Path
from typing import NamedTuple

import pytest

from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from membridge.answering_model import VideoLanguageModel, load, with_answers
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model, open_gate
from tests.lmms_eval.own_environment import OwnEnvironment
from tests.membridge.evaluation.made_benchmark import write_clips, write_frame_folder


class Made(NamedTuple):
    """A model folder, its model, clips and pictures."""

    folder: Path
    model: VideoLanguageModel
    clips: list[Path]
    pictures: list[Path]  # frames of a video of one frame a second


@pytest.fixture(scope="session")
def made(folders: PartFolders, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Only to be read."""
    here = tmp_path_factory.mktemp("made")
    model = make_model(folders)
    open_gate(model.bridge)  # type: ignore[arg-type]
    model.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=5), 4)
    with_answers(model).save_pretrained(here / "model")
    write_clips(here / "videos", 3)
    write_frame_folder(here / "pictures", 8)
    return Made(
        here / "model",
        load(here / "model"),
        sorted((here / "videos").iterdir()),
        sorted((here / "pictures").iterdir()),
    )


@pytest.fixture
def own(tmp_path: Path) -> OwnEnvironment:
    """lmms-eval in an empty working directory."""
    (tmp_path / "empty").mkdir()
    return OwnEnvironment(tmp_path / "empty")
