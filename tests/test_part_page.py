"""docs/adding_a_part.md from its first to its last block: its parts train, its test passes and finds broken bridges."""

import inspect
import json
import re
import runpy
from collections.abc import Callable, Iterator
from functools import partial
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
from components import interfaces
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.interfaces import (
    DecodingSettings,
    FrameEncoder,
    FrameResampling,
    FrameScorer,
    LossSchedule,
    PatchPooling,
    PictureLayout,
    Projector,
    Segmenter,
    SegmentInput,
    SegmentReducer,
    StoredTokens,
    StreamSchedule,
    TokenPlaces,
    TokenReadout,
    VisualReader,
    WholeVideo,
)
from components.model import VideoLanguageModel, text_of
from components.question_text import without_answers
from components.readers.token_store import TokenStore
from components.streaming import StreamingSession
from datamodules.batch import collate
from tests.components.tiny_language import make_model_folder
from tests.documentation import ROOT, blocks_of, importable_modules, read_page, write_shown_files
from tests.fixtures_data import make_clip, make_record, write_shard
from tests.fixtures_models import PartFolders, make_batch, make_frames, make_model, make_quickstart_parts, make_sample

PAGE = "docs/adding_a_part.md"
CACHE = "components/language/half_cache.py"
BRIDGE, BRIDGE_TEST = "components/bridges/fading_memory.py", "tests/components/bridges/test_fading_memory.py"
SETTINGS = blocks_of(PAGE, "yaml")
OWN_RUNS = (VisualReader, TokenReadout, StreamSchedule, PictureLayout, FrameScorer)  # they need other readers or widths
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


def part(contract: type) -> Any:
    """The class of the page that fulfils a contract."""
    (found,) = [part_of(block) for block in OWN if issubclass(part_of(block), contract)]
    return found


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


@pytest.mark.parametrize("contract", [*OWN_RUNS, None])
def test_the_parts_of_the_page_train_by_their_yaml(contract: type | None, place: Path, tmp_path: Path) -> None:
    blocks = [block for block in OWN if own_run_of(block) is contract]
    files = [ROOT / "configs/ablation/memory_and_frames.yaml"] if contract is StreamSchedule else []
    for number, block in enumerate(blocks):
        files.append(tmp_path / f"part{number}.yaml")
        files[-1].write_text(block.text, encoding="utf-8")
    cli = fit(*files)
    assert cli.trainer.global_step == 1
    assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
    model = cli.model.built
    policies = (model.frame_resampling, model.segmenter, *model.frame_selections.values(), model.loss_schedule)
    others = (*policies, cli.model.stream_schedule)
    assert blocks
    assert {part_of(block) for block in blocks} <= {type(part) for part in (*model.modules(), *others)}


def own_run_of(block: Any) -> type | None:
    """The contract of a part that needs a run of its own; None for those that train together."""
    return next((contract for contract in OWN_RUNS if issubclass(part_of(block), contract)), None)


def test_every_part_of_the_page_has_a_yaml(place: Path) -> None:
    written = {block.mark for block in blocks_of(PAGE, "python") if block.mark} - {BRIDGE_TEST, CACHE}
    configured = {part_of(block).__module__.replace(".", "/") + ".py" for block in OWN}
    assert written == configured


def test_the_table_of_the_page_has_every_contract() -> None:
    table = read_page(PAGE).split("## Which parts are there?")[1].split("\n## ")[0]
    contracts = [
        each
        for each in vars(interfaces).values()
        if inspect.isclass(each) and inspect.isabstract(each) and not getattr(each, "_is_protocol", False)
    ]
    assert len(contracts) > 10
    assert [each.__name__ for each in contracts if f"`{each.__name__}`" not in table] == []


def test_the_segmenter_of_the_page_cuts_alike_in_batches_and_streams(place: Path, folders: PartFolders) -> None:
    kind = part(Segmenter)
    cls = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    segmenter = kind(threshold=0.0)
    together = segmenter.segment(cls, torch.tensor([5, 7]))
    alone = [segmenter.segment(part, torch.tensor([len(part)])) for part in cls.split([5, 7])]
    assert torch.equal(together, torch.cat(alone))
    assert together.max() > 1
    assert_streams_alike(make_model(folders, segmenter=kind(threshold=0.999)), folders)


def assert_streams_alike(model: VideoLanguageModel, folders: PartFolders) -> None:
    """A streamed video of several segments gives the visual tokens of a stored one."""
    frames = make_frames(6)
    session = StreamingSession(model)
    session.push(frames, torch.arange(6) * 1000)
    offline = model.visual_tokens(collate([make_sample(folders, "video", frames, [[("which colour ?", "red")]])]))
    streamed = session.visual_tokens()
    assert session.boundaries
    torch.testing.assert_close(streamed.tokens[streamed.mask], offline.tokens[offline.mask], rtol=1e-5, atol=1e-5)


def test_the_frame_scorer_of_the_page_scores_every_frame_for_every_question(place: Path) -> None:
    scorer = part(FrameScorer)(3)
    joint = torch.tensor([[1.0, 5.0, 5.0], [-2.0, 5.0, 5.0]])
    assert scorer(joint, ["one", "two words"]).tolist() == [[1.0, -2.0], [2.0, -4.0]]


def test_the_frame_resampling_of_the_page_reads_every_other_frame(place: Path) -> None:
    resampling = part(FrameResampling)()
    assert [resampling.frame_index(WholeVideo.of_length(length)).tolist() for length in (1, 4, 5)] == [
        [0],
        [0, 2],
        [0, 2, 4],
    ]


def test_the_picture_layout_of_the_page_ends_every_tile_with_a_newline(place: Path) -> None:
    patches, newline = torch.randn(3, 4, 2), torch.randn(2)
    shown = part(PictureLayout)(2)(patches, (10, 20), newline)
    assert torch.equal(shown.view(3, 5, 2)[:, :4], patches)
    assert torch.equal(shown[4::5], newline.expand(3, -1))


def test_the_reducer_of_the_page_keeps_a_token_of_every_frame(place: Path, folders: PartFolders) -> None:
    reducer = part(SegmentReducer)(8, step=3)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    reduced, _ = reducer(SegmentInput.from_grid(torch.randn(2, 3, 4, 8), mask, torch.zeros(2, 3).long()), None)
    frames = reduced.places().frame
    assert [set(row[row >= 0].tolist()) for row in frames] == [{0, 1, 2}, {0}]
    assert reduced.token_mask.sum(dim=1).tolist() == [4, 2]
    assert_streams_alike(make_model(folders, reducer=part(SegmentReducer)), folders)


def test_the_pooling_and_the_projector_of_the_page_give_their_widths(place: Path) -> None:
    patches = torch.arange(16.0).view(1, 16, 1)
    assert part(PatchPooling)(1)(patches).flatten().tolist() == [5, 6, 9, 10]
    projector = part(Projector)(1, 6)
    assert projector(patches).shape == (1, 16, projector.out_dim)


def test_the_token_readout_of_the_page_shows_the_last_real_tokens(place: Path, folders: PartFolders) -> None:
    readout = part(TokenReadout)(2, 6, num_tokens=3)
    mask = torch.tensor([[True, True, False, True, True], [True, False, False, False, False]])
    places = torch.arange(5).expand(2, 5).masked_fill(~mask, -1)
    stored = StoredTokens(torch.randn(2, 5, 2), mask, TokenPlaces(places, places, places), 1)
    shown = readout(stored)
    assert shown.places.frame[0].tolist() == [1, 3, 4]
    assert shown.mask.tolist() == [[True] * 3, [False, False, True]]
    torch.testing.assert_close(readout(stored, budget=1).tokens, shown.tokens[:, -1:])
    assert_streams_alike(make_model(folders, bridge=partial(TokenStore, readout=part(TokenReadout))), folders)


def test_the_stream_schedule_of_the_page_adds_streams_later(place: Path) -> None:
    schedule = part(StreamSchedule)(["frames"], 2)
    assert [schedule.left_out(batch) for batch in range(3)] == [{"frames"}, {"frames"}, frozenset()]


def test_the_cache_of_the_page_stores_half_and_answers_about_alike(place: Path, folders: PartFolders) -> None:
    model = make_model(folders)
    visual, text = model.visual_tokens(make_batch(folders)), text_of(make_batch(folders))
    options = [["red", "blue square", "circle"]] * len(text.input_ids)
    exact = model.language_model.score_options(visual, text, options)
    (setting,) = [block.text for block in blocks_of(PAGE, "python") if not block.mark]
    exec(setting, {"model": model})  # the page's own code
    state = model.language_model.prefill(*without_answers(visual, text))
    assert {layer.keys.dtype for layer in state.cache.layers} == {torch.bfloat16}
    assert len(model.language_model.decode(state, DecodingSettings(max_new_tokens=4)).texts) == len(text.input_ids)
    scores = model.language_model.score_options(visual, text, options)
    torch.testing.assert_close(scores, exact, atol=0.02, rtol=0.02)


def test_the_encoder_of_the_page_takes_no_frames(place: Path) -> None:
    features = part(FrameEncoder)()(torch.zeros(0, 3, 84, 84, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    assert features.patches.shape == (0, 9, 3)


def test_the_loss_schedule_of_the_page_takes_two_readings(place: Path, folders: PartFolders) -> None:
    output = make_model(folders, loss_schedule=part(LossSchedule)())(make_batch(folders))
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
