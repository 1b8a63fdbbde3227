"""From a checkpoint of the quickstart to answers about a file, in a process that has nothing of a trainer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import membridge
import membridge.video_batches
from apps.evaluate import command as evaluate
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings
from datamodules.errors import BrokenMediaError
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.shards.shard_reader import open_shards
from lightning_modules.export import main as export_command
from lightning_modules.trained_model import load_model
from membridge.media_files import read_media_file
from tests.documentation import ROOT, blocks_of
from tests.fixtures_data import make_clip, make_image, make_record, write_shard
from tests.fixtures_exported import PIXELS, QUESTION, Trained

# None in place of a module makes an import fail, and find_spec find nothing, as where a package is not installed.
ABSENT = """
import sys
for name in ("lightning", "pytorch_lightning", "lightning_modules", "jsonargparse", "omegaconf", "deepspeed",
             "webdataset", "peft", "accelerate", "matplotlib", "tensorboard"):
    sys.modules[name] = None
"""
OPEN_AND_ASK = (
    ABSENT
    + """
import json
import membridge
model = membridge.load("model")
assert "av" not in sys.modules
question, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
answer = model.answer("video.mp4", question)
text = model.language_model.prompts([question])
from membridge.video_batches import video_batch
from membridge.media_files import read_media_file
from pathlib import Path
batch = video_batch(model, read_media_file(Path("video.mp4"), model.training_facts.frames), text)
print(json.dumps([answer, model.score_options(batch, [options])[0].tolist()]))
"""
)


@pytest.mark.slow
def test_exported_quickstart_gives_the_same_scores_and_answer_where_no_trainer_is_installed(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["red", "green", "blue square"]
    monkeypatch.chdir(trained.folder)  # the checkpoint's config has relative paths
    model = load_model(trained.checkpoint)
    shutil.copytree(trained.exported, tmp_path / "model")
    (tmp_path / "video.mp4").write_bytes(trained.video)
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AND_ASK, json.dumps(QUESTION), json.dumps(options)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    answer, scores = json.loads(done.stdout.splitlines()[-1])
    frames = read_media_file(tmp_path / "video.mp4", FrameSettings(84, "crop", None, 2.0, 512))
    text = model.language_model.prompts([QUESTION])
    batch = membridge.video_batches.video_batch(model, frames, text)
    torch.testing.assert_close(torch.tensor(scores), model.score_options(batch, [options])[0], rtol=0.0, atol=1e-6)
    assert answer == model.generate(batch, 3)[0]


def test_lines_of_the_readme_answer_about_a_file(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained.exported, tmp_path / "runs/exported")
    (tmp_path / "video.mp4").write_bytes(trained.video)
    monkeypatch.chdir(tmp_path)
    blocks = [block for page in ("README.md", "docs/model_folder.md") for block in blocks_of(page, "python")]
    assert len(blocks[0].text.splitlines()) <= 5
    for block in blocks:
        exec(block.text, {})  # the page's own code
    assert capsys.readouterr().out.count("\n") >= len(blocks)


def test_answers_are_those_of_an_evaluation(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where none of the run's folders is
    shards = str(trained.folder / "runs/quickstart/videos/train-000000.tar")
    evaluate.main(["--checkpoint", str(trained.exported), "--data", shards, "--out", "answers"])
    lines = map(json.loads, Path("answers/predictions.jsonl").read_text().splitlines())
    predicted = {line["key"]: line["prediction"] for line in lines}
    Path("video.mp4").write_bytes(trained.video)
    model = membridge.load(trained.exported)
    assert model.answer("video.mp4", QUESTION) == predicted["v0"]
    assert model.answer("video.mp4", [QUESTION, QUESTION]) == [predicted["v0"]] * 2
    assert model.answer("video.mp4", []) == []


@pytest.mark.parametrize(
    "settings",
    [
        FrameSettings(28, "crop", 5),
        FrameSettings(28, "pad", 5),
        FrameSettings(28, "crop", None, 2.0, 3),
        FrameSettings(28, "crop", None, 2.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("ending", ["mp4", "png"])
def test_a_file_becomes_the_frames_of_training(settings: FrameSettings, ending: str, tmp_path: Path) -> None:
    content = make_clip(9, width=64, height=48, fps=4) if ending == "mp4" else make_image(width=64, height=48)
    (tmp_path / "file").write_bytes(content)  # the content counts, not the name
    raw = open_shards(str(write_shard(tmp_path / "x.tar", [("x", make_record(), content, ending)]))).read(0)
    reader = MediaReader(
        FrameSampling(settings.num_frames, settings.fps, settings.max_frames),
        PixelTransform(PixelOptions(settings.size, settings.fit), train=False),
    )
    expected = reader.read(raw.media[0], (0,))
    found = read_media_file(tmp_path / "file", settings)
    assert torch.equal(found.frames, expected.frames)
    assert torch.equal(found.frame_ms, expected.frame_ms)


def test_a_part_of_a_video_is_answered_about(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(trained.video)
    frames = read_media_file(tmp_path / "video.mp4", FrameSettings(84, "crop", None, 2.0), start_ms=2000, end_ms=3000)
    every = read_media_file(tmp_path / "video.mp4", FrameSettings(84, "crop", None, 2.0))
    assert torch.equal(frames.frames, every.frames[4:6])
    model = membridge.load(trained.exported)
    shown: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    model.answer(tmp_path / "video.mp4", QUESTION, start_ms=2000, end_ms=3000)
    assert [torch.equal(each, frames.frames) for each in shown] == [True]


def test_what_cannot_be_answered_says_why(folders: Any, trained: Trained, tmp_path: Path) -> None:
    model = membridge.load(trained.exported)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.mp4"):
        model.answer(tmp_path / "none.mp4", QUESTION)
    (tmp_path / "video.mp4").write_bytes(trained.video)
    with pytest.raises(ValueError, match="start_ms is 3000 and end_ms 1000; expected 0 <= start_ms < end_ms"):
        model.answer(tmp_path / "video.mp4", QUESTION, start_ms=3000, end_ms=1000)
    for content in (b"hello", b"<!doctype html>"):
        (tmp_path / "damaged.mp4").write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.mp4 (is .*, neither|has a format that is none)"):
            model.answer(tmp_path / "damaged.mp4", QUESTION)
    with pytest.raises(ValueError, match=r"cached features .* --config CONFIG"):
        read_media_file(tmp_path / "video.mp4", FrameSettings(None))
    with pytest.raises(ValueError, match=r"training mode"):
        model.train().answer(tmp_path / "video.mp4", QUESTION)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"no video " * 99, "none of a video or picture"),
        (b"RIFF....WAVE", "none of a video or picture"),
    ],
)
def test_a_file_that_is_no_video_or_picture_is_refused_in_words(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.mp4").write_bytes(content)
    with pytest.raises(BrokenMediaError, match=rf"file\.mp4 .*{message}"):
        read_media_file(tmp_path / "file.mp4", FrameSettings(84))


@pytest.mark.parametrize("part", [(2000, 1000), (1000, 1000), (None, 0), (-5, None)])
def test_a_part_without_length_is_refused(part: tuple[int | None, int | None], tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(make_clip(4, width=32, height=32, fps=2))
    with pytest.raises(ValueError, match="expected 0 <= start_ms < end_ms"):
        read_media_file(tmp_path / "video.mp4", FrameSettings(28), start_ms=part[0], end_ms=part[1])


def test_the_face_has_the_model_and_streaming(trained: Trained) -> None:
    model = membridge.load(trained.exported)
    assert isinstance(model, VideoLanguageModel)
    session = membridge.StreamingSession(model)
    session.push(model.encoder.dummy_frames("cpu"), [0])
    assert isinstance(session.ask(QUESTION, max_new_tokens=2), str)


def test_a_checkpoint_of_cached_features_is_exported_with_the_encoder_of_another_config(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.folder)
    export_command([str(trained.checkpoint), str(tmp_path / "out"), "--config", PIXELS, "--license", "mit"])
    opened = membridge.load(tmp_path / "out")
    assert opened.training_facts.frames == FrameSettings(84, "crop", None, 2, 512)
    assert opened.training_facts.max_new_tokens == 3
    assert "license: mit" in (tmp_path / "out/README.md").read_text().splitlines()


def test_several_configs_of_an_export_are_merged_and_the_card_names_the_data_of_the_run(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.folder)
    (tmp_path / "later.yaml").write_text("model: {max_new_tokens: 5}\ndata: {train: [{shards: elsewhere/other.tar}]}\n")
    later = ["--config", str(tmp_path / "later.yaml")]
    export_command([str(trained.checkpoint), str(tmp_path / "out"), "--config", PIXELS, *later])
    assert f'membridge.load("{tmp_path / "out"}")' in capsys.readouterr().out
    assert membridge.load(tmp_path / "out").training_facts.max_new_tokens == 5
    card = (tmp_path / "out/README.md").read_text()
    assert "videos/train-*.tar" in card
    assert "elsewhere/other.tar" not in card
    with pytest.raises(ValueError, match=r"not describe a complete model: .*model\.encoder.* Name all files"):
        export_command([str(trained.checkpoint), str(tmp_path / "part"), *later])
