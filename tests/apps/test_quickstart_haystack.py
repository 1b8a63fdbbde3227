import dataclasses
import hashlib
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

from apps.quickstart import haystack
from apps.quickstart.clips import Clip, read_clip
from apps.quickstart.haystack import HaystackShards, build_haystack
from apps.quickstart.haystack_questions import NUMBERS, TASKS, Task, conversations
from apps.quickstart.haystack_videos import (
    HaystackSettings,
    Split,
    VideoPlan,
    count_frames,
    draw_frames,
    encode,
    make_sample,
    plan_video,
)
from apps.quickstart.needles import COLOURS, SHAPES, Needle
from datamodules.shards.member_names import MediaCount
from datamodules.shards.schema import parse_record
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader

TRAIN = Split("train", 5, 4, 7, "train", "train")
EVAL = Split("eval-2x", 3, 8, 8, "held_out", "2x")
PLANS_OF_VERSION_2 = "f1ca6b7030d6ee02c15a726541f98e939ff5e2b4962341620ab5de00335a7048"
SETTINGS = HaystackSettings(splits=(TRAIN, EVAL), seed=3, videos_per_shard=2)


@pytest.fixture(scope="module")
def clip_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two clips in which a bright bar travels over a textured background."""
    random = np.random.default_rng(0)
    files = []
    for number in range(2):
        grey, tint = random.integers(60, 180, (15, 22, 1)), random.integers(-20, 20, (15, 22, 3))
        texture = (grey + tint).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        frames = np.stack([texture] * 40)
        for index, frame in enumerate(frames):
            frame[:, 5 * index : 5 * index + 8] = 230
        file = tmp_path_factory.mktemp("clips") / f"clip{number}.mp4"
        file.write_bytes(encode(frames))
        files.append(file)
    return files


@pytest.fixture(scope="module")
def clips(clip_files: list[Path]) -> list[Clip]:
    return [read_clip(file) for file in clip_files]


def needle(frame: int, colour: str = "blue") -> Needle:
    return Needle("star", colour, frame, 40, 0, 0, 0.0)


def answers(task: Task, needles: list[Needle], num_frames: int) -> dict[str, str]:
    return {item["category"]: item["turns"][1]["content"] for item in conversations(task, needles, num_frames, "key")}


def shard_bytes(made: HaystackShards) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for paths in made.shards.values() for path in paths}


@pytest.mark.parametrize(
    ("frame", "num_frames", "place"),
    [
        (0, 8, "beginning"),
        (3, 8, "beginning"),
        (4, 8, "end"),
        (6, 15, "beginning"),
        (7, 15, None),
        (8, 15, "end"),
        (0, 7, None),
        (3, 4, None),
    ],
)
def test_place_is_asked_off_the_centre_of_videos_long_enough(frame: int, num_frames: int, place: str | None) -> None:
    asked = answers("needle", [needle(frame)], num_frames)
    assert asked == {"colour": "blue", "shape": "star"} | ({"place": place} if place else {})


def test_without_a_needle_every_answer_is_none() -> None:
    assert answers("needle", [], 8) == {"colour": "none", "shape": "none", "place": "none"}


def test_order_asks_for_the_colour_of_the_earlier_needle() -> None:
    assert answers("order", [needle(2, "red"), needle(5, "green")], 8) == {"first": "red", "last": "green"}
    assert answers("order", [needle(5, "red"), needle(2, "green")], 8) == {"first": "green", "last": "red"}


@pytest.mark.parametrize("number", range(4))
def test_count_asks_for_the_number_of_needles(number: int) -> None:
    assert answers("count", [needle(frame) for frame in range(number)], 8) == {"count": NUMBERS[number]}


def test_order_shows_two_colours_and_count_up_to_three_needles_on_different_frames(clips: list[Clip]) -> None:
    shown = {}
    for task in ("order", "count"):
        split = dataclasses.replace(TRAIN, task=task)
        shown[task] = [plan_video(SETTINGS, clips, split, index) for index in range(400)]
        for video in shown[task]:
            frames = [needle.frame for needle in video.needles]
            assert frames == sorted(set(frames))
        for video in shown[task][:6]:
            assert changed_frames(clips, video) == [needle.frame for needle in video.needles]
    assert all(len({needle.colour for needle in video.needles}) == 2 for video in shown["order"])
    numbers = [len(video.needles) for video in shown["count"]]
    for number in range(4):
        assert numbers.count(number) / 400 == pytest.approx(0.25, abs=0.08)
    firsts = [video.needles[0].colour for video in shown["order"]]
    for colour in COLOURS:
        assert firsts.count(colour) / 400 == pytest.approx(1 / 8, abs=0.06)


def test_records_of_several_needles_name_all_their_frames(clips: list[Clip]) -> None:
    split = dataclasses.replace(TRAIN, task="count")
    for index in range(8):
        record = make_sample(SETTINGS, clips, split, index).record
        frames = [needle.frame for needle in plan_video(SETTINGS, clips, split, index).needles]
        assert record["meta"]["needle_frames"] == ",".join(map(str, frames))
        assert parse_record(json.dumps(record).encode(), where="here", media=MediaCount(1)).meta == record["meta"]


def test_split_too_short_for_its_needles_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 frames.*'count'.*3 needles"):
        dataclasses.replace(TRAIN, min_frames=2, task="count")


def test_needle_videos_are_the_ones_of_before_other_tasks_existed(clips: list[Clip]) -> None:
    # Published results belong to these videos. Plans alone: the encoder's bytes change with its version.
    plans = [plan_video(SETTINGS, clips, split, index) for split in (TRAIN, EVAL) for index in range(20)]
    needles = [(video.num_frames, *(needle for each in video.needles for needle in each)) for video in plans]
    runs = [[tuple(run._replace(colours=run.colours[:2])[:7]) for run in video.runs] for video in plans]
    assert hashlib.sha256(repr((needles, runs)).encode()).hexdigest() == PLANS_OF_VERSION_2
    assert {(run.turns, run.colours.channels) for video in plans for run in video.runs} == {(0, (0, 1, 2))}


def test_answers_are_among_the_options_and_ids_are_unique(clips: list[Clip]) -> None:
    splits = [dataclasses.replace(TRAIN, name=task, task=task) for task in TASKS]
    records = [make_sample(SETTINGS, clips, split, index).record for split in splits for index in range(12)]
    asked = [item for record in records for item in record["conversations"]]
    assert len({item["id"] for item in asked}) == len(asked)
    for item in asked:
        assert item["turns"][1]["content"] in item["options"]


def test_shares_of_answers_are_as_set(clips: list[Clip]) -> None:
    plans = [plan_video(SETTINGS, clips, TRAIN, index) for index in range(1500)]
    needles = [needle for video in plans for needle in video.needles]
    assert 1 - len(needles) / len(plans) == pytest.approx(SETTINGS.no_needle_share, abs=0.03)
    for chosen, all_values in (([n.colour for n in needles], COLOURS), ([n.shape for n in needles], SHAPES)):
        for value in all_values:
            assert chosen.count(value) / len(chosen) == pytest.approx(1 / len(all_values), abs=0.04)
    for needle in needles:
        assert 0.37 <= needle.size / SETTINGS.frame_size <= 0.51


def test_every_frame_is_read_back_at_half_second_steps_with_its_colours(clips: list[Clip]) -> None:
    for index in range(4):
        drawn = draw_frames(SETTINGS, clips, plan_video(SETTINGS, clips, EVAL, index)).astype(float)
        mp4 = make_sample(SETTINGS, clips, EVAL, index).mp4
        with av.open(io.BytesIO(mp4)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            frames = [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(stream)]
        assert [time for time, _ in frames] == [0.5 * number for number in range(8)]
        assert np.abs(np.stack([picture for _, picture in frames]) - drawn).mean() < 4


def decoded_frames(mp4: bytes) -> list[bytes]:
    with av.open(io.BytesIO(mp4)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


@pytest.mark.parametrize("num_frames", [1, 4, 16, 128])
def test_scenes_fill_the_video_exactly(clips: list[Clip], num_frames: int) -> None:
    split = dataclasses.replace(EVAL, min_frames=num_frames, max_frames=num_frames)
    video = plan_video(SETTINGS, clips, split, 0)
    assert sum(len(run.frames) for run in video.runs) == video.num_frames == num_frames
    assert draw_frames(SETTINGS, clips, video).shape[0] == num_frames


def test_background_frames_decode_to_the_same_pixels_in_every_video(clips: list[Clip]) -> None:
    settings = dataclasses.replace(SETTINGS, num_held_out_scenes=3, no_needle_share=1.0)
    long = dataclasses.replace(EVAL, min_frames=40, max_frames=40)
    frames = [frame for i in range(3) for frame in decoded_frames(make_sample(settings, clips, long, i).mp4)]
    assert len(frames) == 120
    assert 6 < len(set(frames)) <= 18


def test_training_and_held_out_videos_share_no_frame(clips: list[Clip]) -> None:
    settings = dataclasses.replace(SETTINGS, no_needle_share=1.0)
    seen = {}
    for split in (TRAIN, EVAL):
        runs = [run for i in range(30) for run in plan_video(settings, clips, split, i).runs]
        seen[split.part] = {(run.clip, frame) for run in runs for frame in run.frames}
    assert seen["train"].isdisjoint(seen["held_out"])
    assert max(frame for _, frame in seen["train"]) < 28  # 70 % of 40
    assert min(frame for _, frame in seen["held_out"]) >= 30  # 75 % of 40


def changed_frames(clips: list[Clip], video: VideoPlan) -> list[int]:
    with_needles = draw_frames(SETTINGS, clips, video)
    without = draw_frames(SETTINGS, clips, video._replace(needles=()))
    return [int(frame) for frame in np.flatnonzero((with_needles != without).any(axis=(1, 2, 3)))]


def test_needle_is_on_its_frame_alone(clips: list[Clip]) -> None:
    videos = [plan_video(SETTINGS, clips, TRAIN, index) for index in range(12)]
    for video in (video for video in videos if video.needles):
        assert changed_frames(clips, video) == [video.needles[0].frame]


def test_a_video_depends_on_seed_split_and_index_alone(clips: list[Clip]) -> None:
    one = make_sample(SETTINGS, clips, TRAIN, 1)
    longer = dataclasses.replace(TRAIN, num_videos=100)
    assert make_sample(dataclasses.replace(SETTINGS, splits=(longer,)), clips, longer, 1) == one
    assert make_sample(dataclasses.replace(SETTINGS, seed=4), clips, TRAIN, 1).mp4 != one.mp4
    assert make_sample(SETTINGS, clips, TRAIN, 2).mp4 != one.mp4
    assert make_sample(SETTINGS, clips, dataclasses.replace(TRAIN, name="other"), 1).mp4 != one.mp4


def test_shards_are_read_back_by_the_projects_own_reader(clip_files: list[Path], tmp_path: Path) -> None:
    made = build_haystack(SETTINGS, clip_files, tmp_path / "out", workers=1, progress=False)
    assert [path.name for path in made.shards["train"]] == [f"train-{number:06d}.tar" for number in range(3)]
    reader = ShardReader([load_index(shard) for shard in made.shards["train"]])
    samples = [reader.read(index) for index in range(len(reader))]
    assert [sample.key for sample in samples] == [f"train-{index:06d}" for index in range(5)]
    lengths = [sample.record.meta["num_frames"] for sample in samples]
    assert lengths == [count_frames(SETTINGS, TRAIN, index) for index in range(5)]
    assert sum(lengths) == made.num_frames["train"]
    assert sum(len(sample.record.conversations) for sample in samples) == made.num_questions["train"]


def test_number_of_processes_changes_nothing(clip_files: list[Path], tmp_path: Path) -> None:
    one = build_haystack(SETTINGS, clip_files, tmp_path / "one", workers=1, progress=False)
    two = build_haystack(SETTINGS, clip_files, tmp_path / "two", workers=2, progress=False)
    assert shard_bytes(one) == shard_bytes(two)


def test_finished_shards_are_kept_and_changed_settings_replace_them(clip_files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build_haystack(SETTINGS, clip_files, out, workers=1, progress=False)
    inode = out.stat().st_ino
    assert build_haystack(SETTINGS, clip_files, out, workers=1, progress=False) == first
    assert out.stat().st_ino == inode
    before = shard_bytes(first)
    other = dataclasses.replace(SETTINGS, seed=9)
    after = shard_bytes(build_haystack(other, clip_files, out, workers=1, progress=False))
    assert before.keys() == after.keys()
    assert before != after


def test_truncated_shard_is_made_again(clip_files: list[Path], tmp_path: Path) -> None:
    made = build_haystack(SETTINGS, clip_files, tmp_path / "out", workers=1, progress=False)
    before = shard_bytes(made)
    made.shards["train"][0].write_bytes(b"")
    assert shard_bytes(build_haystack(SETTINGS, clip_files, tmp_path / "out", workers=1, progress=False)) == before


def test_folder_of_something_else_is_not_touched(clip_files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"has no haystack\.json"):
        build_haystack(SETTINGS, clip_files, tmp_path, workers=1, progress=False)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_interrupted_build_leaves_nothing(
    clip_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(settings: HaystackSettings, clips: list[Clip], split: Split, index: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(haystack, "make_sample", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_haystack(SETTINGS, clip_files, tmp_path / "out", workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_command_line_makes_all_lengths(
    clip_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path / "out"), "--clips", *map(str, clip_files), "--workers", "1"]
    assert haystack.main([*arguments, "--train-videos", "2", "--one-segment-videos", "1", "--eval-videos", "1"]) == 0
    manifest = json.loads((tmp_path / "out" / "haystack.json").read_text())
    frames = {name: split["num_frames"] for name, split in manifest["splits"].items()}
    assert frames.pop("train") <= 32
    assert frames == {"train-one-segment": 4, "eval-1x": 16, "eval-2x": 32, "eval-4x": 64, "eval-8x": 128}
    assert "eval-8x: 1 videos, 128 frames" in capsys.readouterr().out
