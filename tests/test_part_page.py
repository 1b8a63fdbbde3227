"""docs/adding_a_part.md from its first to its last block: its parts train, its test passes and finds broken bridges."""

import json
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    CLIPConfig,
    CLIPModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
)

import train
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.interfaces import FrameEncoder, LossSchedule, Segmenter, VisualReader
from components.streaming import StreamingSession
from datamodules.batch import collate
from tests.components.tiny_language import make_model_folder
from tests.documentation import ROOT, blocks_of, importable_modules, write_shown_files
from tests.fixtures_data import make_clip, make_record, write_shard
from tests.fixtures_models import PartFolders, make_batch, make_frames, make_model, make_quickstart_parts, make_sample

PAGE = "docs/adding_a_part.md"
BRIDGE, BRIDGE_TEST = "components/bridges/fading_memory.py", "tests/components/bridges/test_fading_memory.py"
SETTINGS = blocks_of(PAGE, "yaml")
OTHER_PARTS = ["siglip_qwen.yaml", "clip_qwen3.yaml", "dinov3_lora.yaml"]
OWN = [block for block in SETTINGS if block.mark not in OTHER_PARTS]
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VISION |= {"image_size": 24, "patch_size": 8}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
ENCODERS: dict[str, Callable[[], Any]] = {
    "siglip": lambda: SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT)),
    "clip": lambda: CLIPModel(CLIPConfig(vision_config=VISION | {"image_size": 96}, text_config=TEXT)),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**VISION, num_register_tokens=4)),
}
QUICK = [
    "--trainer.max_steps=1",
    "--trainer.limit_val_batches=0",
    "--data.loading.batch_size=4",
    "--data.order.curriculum=[]",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's files in a folder from which they can be imported, beside tiny parts and videos."""
    folder = tmp_path_factory.mktemp("place")
    make_quickstart_parts(folder)
    clip = make_clip(4, width=84, height=84, fps=2)
    shards = [(f"{number:03d}", make_record(meta={"num_frames": 4}), clip, "mp4") for number in range(4)]
    for name in ("train", "eval-1x", "eval-2x", "eval-4x", "eval-8x"):
        write_shard(folder / f"runs/quickstart/videos/{name}-000000.tar", shards)
    write_shown_files(PAGE, folder)
    with pytest.MonkeyPatch.context() as patch, importable_modules(PAGE, folder):
        patch.chdir(folder)
        yield folder


def part_of(block: Any) -> Any:
    """The class that a YAML of the page names."""
    class_path = re.findall(r"class_path: ([\w.]+)", block.text)[-1]
    module, name = class_path.rsplit(".", 1)
    return getattr(__import__(module, fromlist=[name]), name)


def fit(*files: Path) -> Any:
    """Train for a step with the quickstart's settings for pixels and these files over them."""
    named = [part for file in (ROOT / "configs/quickstart_pixels.yaml", *files) for part in ("-c", str(file))]
    return train.main(["fit", *named, *QUICK])


def shown_tests(folders: PartFolders) -> dict[str, Callable[[], None]]:
    """The tests that the page shows, ready to be called."""
    found = {name: each for name, each in runpy.run_path(BRIDGE_TEST).items() if name.startswith("test_")}
    return {
        name: (lambda test=test: test(folders)) if test.__code__.co_argcount else test for name, test in found.items()
    }


def test_the_test_of_the_page_passes(place: Path, folders: PartFolders) -> None:
    tests = shown_tests(folders)
    assert len(tests) == 5
    for test in tests.values():
        test()


@pytest.mark.parametrize(
    ("right", "wrong", "found_by"),
    [
        ("return torch.where(has_segment, self.decay", "return torch.where(has_segment | True, self.decay", "padding"),
        ("masked_fill(~is_real, 0.0)", "clone()", "padding"),
        ("return torch.where(has_segment, ", "return state.copy_(state.lerp(mean, 0.5)) if 1 else (", "later_segments"),
        ("sum(dim=1).clamp(min=1)", "sum(dim=(0, 1)).clamp(min=1)", "each_video_gives_alone"),
        ("self.decay * state +", "0.0 * state.detach() +", "gradients"),
        ("if state is None:", "self.decay *= 0.9\n        if state is None:", "streaming"),
    ],
)
def test_the_test_of_the_page_finds_a_broken_bridge(
    right: str, wrong: str, found_by: str, place: Path, folders: PartFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (place / BRIDGE).read_text(encoding="utf-8")
    assert right in text
    broken: dict[str, Any] = {}
    exec(text.replace(right, wrong), broken)
    monkeypatch.setattr("components.bridges.fading_memory.FadingMemory", broken["FadingMemory"])
    (test,) = [each for name, each in shown_tests(folders).items() if found_by in name]
    with pytest.raises(AssertionError):
        test()


@pytest.mark.parametrize("with_new_bridge", [True, False])
def test_the_parts_of_the_page_train_by_their_yaml(with_new_bridge: bool, place: Path, tmp_path: Path) -> None:
    blocks = [block for block in OWN if (issubclass(part_of(block), VisualReader)) == with_new_bridge]
    files = []
    for number, block in enumerate(blocks):
        files.append(tmp_path / f"part{number}.yaml")
        files[-1].write_text(block.text, encoding="utf-8")
    cli = fit(*files)
    assert cli.trainer.global_step == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    model = cli.model.built
    parts = {
        type(part)
        for part in (*model.modules(), model.segmenter, *model.frame_selections.values(), model.loss_schedule)
    }
    assert {part_of(block) for block in blocks} <= parts


def test_every_part_of_the_page_has_a_yaml(place: Path) -> None:
    written = {block.mark for block in blocks_of(PAGE, "python")} - {BRIDGE_TEST}
    configured = {part_of(block).__module__.replace(".", "/") + ".py" for block in OWN}
    assert written == configured


def test_the_segmenter_of_the_page_cuts_alike_in_batches_and_streams(place: Path, folders: PartFolders) -> None:
    (kind,) = [part_of(block) for block in OWN if issubclass(part_of(block), Segmenter)]
    cls = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    segmenter = kind(threshold=0.0)
    together = segmenter.segment(cls, torch.tensor([5, 7]))
    alone = [segmenter.segment(part, torch.tensor([len(part)])) for part in cls.split([5, 7])]
    assert torch.equal(together, torch.cat(alone))
    assert together.max() > 1
    model = make_model(folders, segmenter=kind(threshold=0.999))
    frames = make_frames(6)
    session = StreamingSession(model)
    session.push(frames, torch.arange(6) * 1000)
    offline = model.visual_tokens(collate([make_sample(folders, "video", frames, [[("which colour ?", "red")]])]))
    assert session.boundaries
    torch.testing.assert_close(session.visual_tokens().tokens, offline.tokens, rtol=1e-5, atol=1e-5)


def test_the_encoder_of_the_page_takes_no_frames(place: Path) -> None:
    (kind,) = [part_of(block) for block in OWN if issubclass(part_of(block), FrameEncoder)]
    features = kind()(torch.zeros(0, 3, 84, 84, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    assert features.patches.shape == (0, 9, 3)


def test_the_loss_schedule_of_the_page_takes_two_readings(place: Path, folders: PartFolders) -> None:
    (kind,) = [part_of(block) for block in OWN if issubclass(part_of(block), LossSchedule)]
    output = make_model(folders, loss_schedule=kind())(make_batch(folders))
    assert output.reading_losses.shape == (2,)


@pytest.mark.parametrize("name", OTHER_PARTS)
def test_other_encoders_and_language_models_train_by_their_path(name: str, place: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((place / name).read_text(encoding="utf-8"))
    vision, language = (settings["model"][part]["init_args"] for part in ("encoder", "language_model"))
    (kind,) = [kind for kind in ENCODERS if kind in vision["path"]]
    ENCODERS[kind]().save_pretrained(tmp_path / "encoder")
    size = 96 if kind == "clip" else 24
    pixels = {"size": {"height": size, "width": size}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "encoder/preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    model_type = "qwen3" if "Qwen3" in language["path"] else "qwen2"
    make_model_folder(tmp_path / "language", model_type, max_position_embeddings=512)
    vision["path"], language["path"] = str(tmp_path / "encoder"), str(tmp_path / "language")
    (tmp_path / name).write_text(yaml.safe_dump(settings), encoding="utf-8")
    cli = fit(tmp_path / name)
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    encoder = cli.model.built.encoder
    assert isinstance(encoder, HuggingFaceVisionEncoder)
    assert cli.datamodule.pixels.size == encoder.image_size == size
