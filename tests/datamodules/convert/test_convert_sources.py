import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.instruction import InstructionDataModule
from datamodules.loader import Loading
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.transforms import PixelOptions
from tests.datamodules.convert.conversions import (
    CLIP,
    PICTURE,
    convert,
    llava_item,
    read_samples,
    report,
    said,
    write_json,
    write_media,
)
from tests.fixtures_data import write_members


def pllava(folder: Path) -> list[object]:
    write_media(folder / "videos", "ssv2/1.webm", "clip.mp4")
    write_media(folder / "ego4d", "a/b.mp4")
    caption = {"video": "clip.mp4", "QA": [{"i": "Describe the video.", "q": "", "a": "A star turns."}]}
    classified = {"video": "clip.mp4", "QA": [{"i": "", "q": "Which action ?", "a": "turning"}]}
    asked = {
        "video": "a/b.mp4",
        "start": 0.5,
        "end": 1.5,
        "QA": [{"i": "Answer briefly.", "q": "what ?", "a": "a star"}, {"q": "how many ?", "a": "one"}],
    }
    write_json(folder / "magic_jsons/video/caption/videochat/train.json", [caption])
    write_json(folder / "magic_jsons/video/classification/ssv2/train.json", [classified])
    write_json(folder / "magic_jsons/video/vqa/ego_qa/train.json", [asked])
    roots = ["--media-root", folder / "videos", "--media-root", f"video/vqa/ego_qa={folder / 'ego4d'}"]
    return [folder / "magic_jsons", folder / "out", *roots]


def llava(folder: Path) -> list[object]:
    write_media(folder / "images", "coco/train2017/1.jpg")
    turns = [
        {"from": "human", "value": "<image>\nwhat ?"},
        {"from": "gpt", "value": "a star"},
        {"from": "human", "value": "how many ?"},
        {"from": "gpt", "value": "one"},
    ]
    rows = [
        {"id": "1", "image": "coco/train2017/1.jpg", "conversations": turns},
        {"id": "text", "conversations": turns[2:]},
        llava_item("how many ?\n<image>", "one", id="1", image="coco/train2017/1.jpg"),
    ]
    path = write_json(folder / "llava_v1_5_mix665k.json", rows)
    return [path, folder / "out", "--media-root", folder / "images"]


def videollamb(folder: Path) -> list[object]:
    write_media(folder / "media", "video/videochat/ssv2/1.mp4", "image/coco/2.jpg")
    rows = [
        llava_item("<video>\nwhat ?", video="video/videochat/ssv2/1.mp4"),
        llava_item("<image>\nwhat ?", image="image/coco/2.jpg"),
        llava_item("hello"),
        llava_item("<video>\nhow many ?", "one", video="video/videochat/ssv2/1.mp4"),
    ]
    path = write_json(folder / "llava_pllava_filter.json", rows)
    return [path, folder / "out", "--media-root", folder / "media"]


def llava_video(folder: Path) -> list[object]:
    subset = folder / "0_30_s_academic_v0_1"
    write_media(subset, "academic_source/a/1.mp4")
    write_media(folder, "academic_source/b/2.mp4")
    one, two = "academic_source/a/1.mp4", "academic_source/b/2.mp4"
    names = {"cap": [one], "oe_v0_1_qa": [one, two], "mc_v0_1_qa": [one]}
    for name, videos in names.items():
        rows = [llava_item(f"<image>\n{name} ?", id=video, data_source="academic", video=video) for video in videos]
        write_json(subset / f"0_30_s_academic_{name}_processed.json", rows)
    return [folder, folder / "out"]


def mixture(folder: Path) -> list[object]:
    write_media(folder, *[f"{number}.mp4" for number in range(4)])
    rows = [llava_item(f"what {number} ?", video=f"{number}.mp4") for number in range(4)]
    write_json(folder / "data/all.json", rows[:1])
    (folder / "data/lines.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    text = "datasets:\n- json_path: data/all.json\n  sampling_strategy: all\n"
    for strategy in ("first:1", "end:25%", "random:2"):
        text += f"- json_path: data/lines.jsonl\n  sampling_strategy: {strategy}\n"
    (folder / "mixture.yaml").write_text(text)
    return [folder / "mixture.yaml", folder / "out", "--media-root", folder]


def webdataset(folder: Path) -> list[object]:
    members = [("1.mp4", CLIP), ("1.json", json.dumps(llava_item()).encode()), ("2.jpg", PICTURE), ("2.txt", b"one")]
    return [write_members(folder / "set-000.tar", members), folder / "out"]


SOURCES = {
    "pllava": pllava,
    "llava": llava,
    "videollamb": videollamb,
    "llava-video": llava_video,
    "mixture": mixture,
    "webdataset": webdataset,
}


@pytest.fixture
def converted(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    convert(request.param, *SOURCES[request.param](tmp_path))
    return tmp_path / "out"


def in_shards(*names: str) -> Any:
    return pytest.mark.parametrize("converted", names, indirect=True)


@in_shards("pllava")
def test_pllava_tree_gives_a_sample_for_every_video_and_part(converted: Path) -> None:
    clip, asked = read_samples(converted)
    assert said(clip) == [["<video>\nDescribe the video.", "A star turns."], ["<video>\nWhich action ?", "turning"]]
    assert [one.id for one in clip.record.conversations] == [
        "video/caption/videochat#0",
        "video/classification/ssv2#0",
    ]
    assert [one.category for one in clip.record.conversations] == ["caption", "classification"]
    assert clip.record.source == "video/caption/videochat"
    assert said(asked) == [["Answer briefly.", "<video>\nwhat ?", "a star", "how many ?", "one"]]
    assert [turn.role for turn in asked.record.conversations[0].turns][:2] == ["system", "user"]
    assert (asked.record.start_ms, asked.record.end_ms) == (500, 1500)
    assert asked.record.meta == {"media": "a/b.mp4", "width": 64, "height": 48, "duration_ms": 1000}


@in_shards("llava")
def test_llava_rows_about_one_picture_become_one_sample(converted: Path) -> None:
    picture, text = read_samples(converted)
    assert said(picture) == [
        ["<video>\nwhat ?", "a star", "how many ?", "one"],
        ["<video>\nhow many ?", "one"],
    ]
    assert (picture.media[0].ending, picture.media[0].content.read()) == ("jpg", PICTURE)
    assert picture.record.meta == {"media": "coco/train2017/1.jpg", "width": 64, "height": 48}
    assert (said(text), text.media, text.record.meta) == ([["how many ?", "one"]], (), {})
    assert picture.record.source == text.record.source == "llava_v1_5_mix665k"


@in_shards("videollamb")
def test_videollamb_sources_are_the_sets_that_its_media_lie_in(converted: Path) -> None:
    samples = read_samples(converted)
    assert [sample.record.source for sample in samples] == ["videollamb/ssv2", "videollamb/coco", "videollamb/text"]
    assert said(samples[0]) == [["<video>\nwhat ?", "a star"], ["<video>\nhow many ?", "one"]]
    assert samples[0].media[0].content.read() == CLIP


@in_shards("llava-video")
def test_llava_video_subsets_join_their_three_files_and_find_media_there_or_above(converted: Path) -> None:
    one, two = read_samples(converted)
    assert [(item.category, item.turns[0].content) for item in one.record.conversations] == [
        ("caption", "<video>\ncap ?"),
        ("multiple_choice", "<video>\nmc_v0_1_qa ?"),
        ("open_ended", "<video>\noe_v0_1_qa ?"),
    ]
    assert one.record.source == two.record.source == "0_30_s_academic_v0_1"
    assert two.record.meta["media"] == "academic_source/b/2.mp4"


@in_shards("mixture")
def test_mixture_takes_the_rows_that_its_strategies_name(converted: Path) -> None:
    asked = {str(sample.record.meta["media"]): sample.record.conversations for sample in read_samples(converted)}
    ids = [one.id for conversations in asked.values() for one in conversations]
    assert len(ids) == len(set(ids)) == 1 + 1 + 1 + 2
    assert {one.id for one in asked["0.mp4"]} >= {"all#0", "lines#0"}
    assert "lines~2#3" in {one.id for one in asked["3.mp4"]}
    random_rows = [name for name in ids if name.startswith("lines~3#")]
    assert len(random_rows) == 2
    convert("mixture", converted.parent / "mixture.yaml", converted / "again", "--media-root", converted.parent)
    assert (converted / "again/mixture-000000.tar").read_bytes() == (converted / "mixture-000000.tar").read_bytes()
    for seed in range(1, 9):
        out = converted / str(seed)
        convert("mixture", converted.parent / "mixture.yaml", out, "--media-root", converted.parent, "--seed", seed)
    taken = {
        tuple(sorted(one.id for sample in read_samples(converted / str(seed)) for one in sample.record.conversations))
        for seed in range(1, 9)
    }
    assert len(taken) > 1, "the seed chooses the random rows"


@pytest.mark.parametrize("source", SOURCES)
def test_converted_shards_give_the_datamodule_every_conversation(
    source: str, tmp_path: Path, tokenizer_folder: Path
) -> None:
    convert(source, *SOURCES[source](tmp_path))
    data = InstructionDataModule(
        str(tokenizer_folder),
        validation={"converted": str(tmp_path / "out")},
        sampling=FrameSampling(num_frames=2),
        pixels=PixelOptions(16),
        loading=Loading(batch_size=2, num_workers=0),
    )
    asked = [question for batch in data.val_dataloader()[0] for question in batch.questions]
    expected = {
        (conversation.id, sample.key, "".join(medium.ending for medium in sample.media))
        for sample in read_samples(tmp_path / "out")
        for conversation in sample.record.conversations
    }
    assert len(asked) == len(expected)
    assert {(one.id, one.key) for one in asked} == {entry[:2] for entry in expected}
    frames = {"": 0, "jpg": 1, "mp4": 2, "webm": 2}
    assert {(one.id, one.num_frames) for one in asked} == {(entry[0], frames[entry[2]]) for entry in expected}
    assert {one.answer for one in asked} <= {"a star", "one", "turning", "A star turns."}
    assert report(tmp_path / "out", source)["rows_left_out"] == 0
