"""A run of the command line on pictures in tiles, videos and text, from shards to answers."""

from pathlib import Path

import yaml

import membridge
import train
from lightning_modules.evaluation.predictions import read_predictions
from lightning_modules.export import main as export
from tests.fixtures_data import make_clip, make_image, make_record, write_shard
from tests.fixtures_models import IMAGE_SIZE, PartFolders
from tests.fixtures_training import write_run_config


def test_pictures_in_tiles_train_beside_videos_and_text_and_are_answered(tmp_path: Path, folders: PartFolders) -> None:
    samples = [
        ("wide", make_record(), make_image(20, width=120, height=30), "png"),
        ("video", make_record(), make_clip(5), "mp4"),
        ("text", make_record(media=False), None, None),
        ("tall", make_record(), make_image(70, width=40, height=90, form="jpeg"), "jpg"),
    ]
    shard = str(write_shard(tmp_path / "shard.tar", samples))
    path = write_run_config(tmp_path, folders, dict.fromkeys(("train", "validation", "predict"), shard), max_steps=4)
    config = yaml.safe_load(path.read_text())
    layout = {"tile_size": IMAGE_SIZE, "per_side": 3}
    config["model"] |= {
        "projector": "components.projectors.mlp.MlpProjector",
        "newline": "components.newline.Newline",
        "picture_layout": {"class_path": "components.pictures.tile_layout.TileLayout", "init_args": layout},
    }
    config["model"]["optimization"]["learning_rates"] |= {"projector": 0.01, "newline": 0.01}
    config["data"]["pixels"] |= {"fit": "stretch", "tiles": {"per_side": 3}}
    config["data"]["loading"] |= {"batch_size": None, "cost": {"visual_tokens": 40}}
    config["data"]["loading"]["budget"] = {"max_frames": 24, "max_tokens": 512, "group_size": 1}
    config["data"]["sampling"] = {"num_frames": 4}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    train.main(["fit", "-c", str(path)])
    checkpoint = str(tmp_path / "run/version_0/checkpoints/last.ckpt")
    train.main(["predict", "-c", str(path), "--ckpt_path", checkpoint])
    answers = read_predictions(tmp_path / "run/predict_0/predictions.jsonl")
    assert sorted(each.key for each in answers) == ["tall", "text", "video", "wide"]
    export([checkpoint, str(tmp_path / "model")])
    frames = membridge.load(tmp_path / "model").training_facts.frames
    assert (frames.fit, frames.tiles_per_side, frames.num_frames) == ("stretch", 3, 4)
