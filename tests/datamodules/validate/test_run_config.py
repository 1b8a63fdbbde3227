"""Shards are validated with the data settings of a run's config."""

import json
import re
from pathlib import Path

import pytest

from datamodules.media.decoding import Decoding
from datamodules.media.frame_sampling import FrameSampling
from datamodules.validate.__main__ import main
from datamodules.validate.run_config import read_run_config
from datamodules.validate.shard_check import CheckedShard, ShardCheck
from tests.datamodules.validate.validation import kinds, validate
from tests.fixtures_data import (
    CHAT_TEMPLATE,
    make_record,
    make_samples,
    make_tiny_tokenizer,
    write_shard,
)

NO_SYSTEM_TURN = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHAT_TEMPLATE
)


def run_config(folder: Path, tokenizer: Path, **settings: object) -> Path:
    """A config of a run on the shards of this folder."""
    data = {"tokenizer": str(tokenizer), "train": [{"shards": f"{folder}/*.tar"}], "predict": "${.validation}"}
    data |= {"validation": {"same": [f"{folder}/*.tar"]}, "loading": settings}
    path = folder / "run.yaml"
    path.write_text(json.dumps({"data": data}))
    return path


def test_conversations_are_checked_with_the_tokenizer_of_a_config(
    tmp_path: Path, tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system = make_record(media=False)
    system["conversations"][0]["turns"].insert(0, {"role": "system", "content": "are you helpful ?"})
    long = make_record([("one two three " * 20, "red")], media=False)
    unknown = make_record([("perpendicular zeugma", "red")], media=False)
    rows = [("a", system, None, None), ("b", long, None, None), ("c", unknown, None, None)]
    write_shard(tmp_path / "x.tar", rows)
    status, report = validate(
        "--config", run_config(tmp_path, tokenizer_folder, max_length=30), "--workers", 0, report=tmp_path / "r.json"
    )
    assert (status, kinds(report)) == (1, {"b": "length"})
    assert report["shards"] == 1
    assert report["tokens"] == {"total": 36, "longest": 23, "unknown": 2}
    assert "36 text tokens, 23 in the longest conversation; 5.56% stand for words" in capsys.readouterr().out

    folder = make_tiny_tokenizer(tmp_path / "strict", chat_template=NO_SYSTEM_TURN)
    status, report = validate("--config", run_config(tmp_path, folder), "--workers", 1, report=tmp_path / "r.json")
    assert (status, kinds(report)) == (1, {"a": "conversation"})
    assert "system_turns to 'first_question'" in report["wrong_samples"][0]["reason"]

    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("data: {loading: {chat: {system_turns: first_question}}}")
    configs = ("--config", run_config(tmp_path, folder), "--config", overlay)
    status, report = validate(*configs, "--workers", 0, report=tmp_path / "r.json")
    assert (status, kinds(report)) == (0, {})

    language_model = {"init_args": {"path": str(folder), "chat": {"system_turns": "first_question"}}}
    overlay.write_text(json.dumps({"model": {"language_model": language_model}, "data": {"tokenizer": None}}))
    status, report = validate(*configs, "--workers", 0, report=tmp_path / "r.json")
    assert (status, kinds(report)) == (0, {}), "what data leave out is the language model's"


def test_media_are_decoded_as_the_config_says_unless_an_option_says_otherwise(
    tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "x.tar", [("a", make_record(media=False), None, None)])
    config = run_config(tmp_path, tokenizer_folder, decoding={"max_pixels": 5, "timeout_s": 7})
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("data: {sampling: {num_frames: null, fps: 2, max_frames: 9}}")
    checks: list[ShardCheck] = []

    def note(check: ShardCheck, shard: str) -> CheckedShard:
        checks.append(check)
        return CheckedShard(shard, [], None)

    monkeypatch.setattr(ShardCheck, "run", note)
    options = ("--config", config, "--config", overlay, "--workers", 0)
    for more in ((), ("--num-frames", 4, "--timeout", 8, "--video-backend", "decord"), ("--max-frames", 5)):
        assert main([*map(str, options), *map(str, more)]) == 0
    assert [check.sampling for check in checks] == [
        FrameSampling(None, 2, 9),
        FrameSampling(4),
        FrameSampling(None, 2, 5),
    ]
    assert [check.decoding for check in checks[:2]] == [
        Decoding("pyav", timeout_s=7, max_pixels=5),
        Decoding("decord", timeout_s=8, max_pixels=5),
    ]


def test_without_a_tokenizer_in_the_data_that_of_the_language_model_is_used(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    model = tmp_path / "model.yaml"
    model.write_text(json.dumps({"model": {"language_model": {"init_args": {"path": str(tokenizer_folder)}}}}))
    config = run_config(tmp_path, tokenizer_folder)
    config.write_text(config.read_text().replace("tokenizer", "num_steps").replace(f'"{tokenizer_folder}"', "4"))
    read = read_run_config([config, model])
    assert read.conversations.tokenizer == str(tokenizer_folder)
    with pytest.raises(ValueError, match="give the config of the model too"):
        read_run_config([config])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("data: {}", "give the config of the model too"),
        ("model: {}", "no config of a training run"),
        ("data: {tokenizer: x, sampling: {fps: 2}}", "give either num_frames or fps"),
        ("- a", "no config of a training run"),
        ("data: {tokenizer: gone, train: [{shards: x.tar}]}", r"no shard matches|x\.tar"),
        ("data: {tokenizer: gone}", "name the shards"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(
    tmp_path: Path, config: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(config)
    with pytest.raises(SystemExit):
        main(["--config", str(path)])
    assert re.search(message, capsys.readouterr().err)


def test_a_useless_template_is_reported_once_and_not_for_every_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    good = write_shard(tmp_path / "good.tar", make_samples(2))
    folder = make_tiny_tokenizer(tmp_path / "useless", chat_template=template)
    with pytest.raises(SystemExit):
        main(["--config", str(run_config(tmp_path, folder)), str(good)])
    assert "without a special token" in capsys.readouterr().err
