"""What the folder of a model says of the model."""

from functools import partial
from pathlib import Path

from components.encoders.cached import CachedFeatures
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from components.pretrained.model_card import CardFacts
from datamodules.media.frame_sampling import FrameSampling
from tests.fixtures_models import PartFolders, make_model


def test_the_card_says_what_trained_it_and_how_well_it_answers(folders: PartFolders, tmp_path: Path) -> None:
    model = make_model(folders, encoder=partial(CachedFeatures, 32, 4))
    model.training_facts = TrainingFacts(FrameSettings(None), run={"optimizer steps": 300, "training data": ["a", "b"]})
    entry = {"value": 0.75, "standard_error": 0.1, "correct": 3, "questions": 4}
    results = {"evaluated": {"data": ["held.tar"]}, "accuracy": entry, "by_length": {"1x": entry}}
    model.save_pretrained(tmp_path / "out", card=CardFacts("Small memory", "apache-2.0", results))
    card = (tmp_path / "out/README.md").read_text()
    for line in (
        "license: apache-2.0",
        "# Small memory",
        "- optimizer steps: 300",
        "- training data: a, b",
        "- cached features of frames, not pixels",
        "| 1x | 0.750 | 0.100 | 4 |",
    ):
        assert line in card.splitlines()


def test_frame_settings_have_the_defaults_of_the_data() -> None:
    ours, theirs = FrameSettings(), FrameSampling()
    assert (ours.num_frames, ours.fps, ours.max_frames) == (theirs.num_frames, theirs.fps, theirs.max_frames)
