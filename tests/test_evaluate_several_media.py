"""A model of two readers is trained and evaluated on shards whose samples have several media."""

from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from apps.evaluate import command as evaluate
from lightning_modules.evaluation.predictions import read_predictions
from tests.datamodules.several_media import record_of, write_several
from tests.fixtures_data import make_clip, make_image
from tests.fixtures_models import IMAGE_SIZE, PartFolders
from tests.fixtures_streams import with_streams
from tests.fixtures_training import write_run_config

FILES = [{"meta": {"media": "film.mp4"}}, {"meta": {"media": "picture.png"}}]


@pytest.fixture
def shards(tmp_path: Path) -> tuple[str, str]:
    """A shard to train on, and one to evaluate on that has a broken picture beside a sound film."""
    film, picture = (make_clip(6, width=IMAGE_SIZE, height=IMAGE_SIZE), "mp4"), (make_image(), "png")
    about_both = record_of("<video><video>\nwhich colour ?", "<video_1>\nhow many ?", media=FILES)
    sound = [("both", about_both, [film, picture]), ("turned", about_both, [film, picture])]
    broken = ("broken", about_both, [film, (b"no picture", "png")])
    trained = write_several(tmp_path / "train.tar", sound)
    return str(trained), str(write_several(tmp_path / "held-out.tar", [sound[0], broken]))


def test_conversations_about_several_media_are_trained_evaluated_and_reported(
    tmp_path: Path, folders: PartFolders, shards: tuple[str, str]
) -> None:
    trained, held_out = shards
    config = write_run_config(tmp_path, folders, {"train": trained, "validation": trained, "predict": held_out})
    settings = yaml.safe_load(config.read_text())
    settings["data"]["loading"] |= {"batch_size": 2}
    config.write_text(yaml.safe_dump(settings))
    config = with_streams(config)
    cli = train.main(["fit", "-c", str(config)])
    assert "val/accuracy" in cli.trainer.callback_metrics
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    shown = EventAccumulator(str(cli.trainer.log_dir), size_guidance={"images": 0}).Reload().Tags()["images"]
    assert sorted(shown) == ["videos/1x/film.mp4__picture.png/both/0", "videos/1x/film.mp4__picture.png/both/1"]
    checkpoint = Path(cli.trainer.log_dir) / "checkpoints" / "final.ckpt"
    out = tmp_path / "evaluation"
    # The reducer is a class of the tests. Without a config, only classes of the project are accepted.
    named = ["--checkpoint", str(checkpoint), "--config", str(config), "--data", held_out, "--out", str(out)]
    report = evaluate.main([*named, "--max-skipped-share", "0.5"])
    predictions = read_predictions(out / "predictions.jsonl")
    assert [(each.key, each.media, each.length) for each in predictions] == [
        ("both", "film.mp4, picture.png", "7"),  # six frames and a picture
        ("both", "picture.png", "1"),
    ]
    assert report["accuracy"]["questions"] == 2
    assert [(each["key"], each["media"]) for each in report["skipped"]["which"]] == [
        ("broken", "film.mp4, picture.png")
    ]
