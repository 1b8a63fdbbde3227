from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.conversations import build_turns
from datamodules.errors import SampleError
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.picture_tiles import PictureTiles
from datamodules.order.draws import Cost, TiledPictures, divide_samples, longest_draw, sampled_frames, tabulate
from datamodules.order.text_tokens import TextTokens, measure_text_tokens
from datamodules.shards.index_entries import IndexEntry
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader
from tests.datamodules.order.sample_tables import IMAGE, TEXT, VIDEO, table
from tests.fixtures_data import RawSample, make_clip, make_image, make_record, write_members, write_shard

FPS = FrameSampling(num_frames=None, fps=2.0)
BOUNDED = FrameSampling(num_frames=None, fps=2.0, max_frames=32)


def entry(ending: str, problem: str | None = None, **meta: Any) -> IndexEntry:
    return IndexEntry("key", {"json": (0, 1), ending: (0, 1)}, 1, meta, problem, (10,))


@pytest.mark.parametrize(
    ("sample", "sampling", "frames"),
    [
        (entry("json"), FPS, 0),
        (entry("png"), FPS, 1),
        (entry("safetensors", num_frames=7), FPS, 7),
        (entry("safetensors", num_frames=7), FrameSampling(num_frames=4), 7),  # were sampled when they were written
        (entry("safetensors"), FPS, None),
        (entry("mp4"), FrameSampling(num_frames=16), 16),
        (entry("mp4", num_frames=5), FrameSampling(num_frames=16), 5),
        (entry("mp4", num_frames=500, duration_ms=1), FrameSampling(num_frames=16), 16),
        (entry("mp4", duration_ms=10_000), FPS, 20),
        (entry("mp4", duration_ms=10_000.0, num_frames=250), FPS, 20),
        (entry("mp4", duration_ms=10_000, num_frames=12), FPS, 12),
        (entry("mp4", duration_ms=100_000), BOUNDED, 32),
        (entry("mp4", num_frames=12), FPS, 12),
        (entry("mp4", num_frames=120), BOUNDED, 32),
        (entry("mp4"), FPS, None),
        (entry("mp4"), BOUNDED, None),
        (entry("mp4", problem="broken"), FPS, 0),
    ],
)
def test_frames_follow_from_the_index(sample: IndexEntry, sampling: FrameSampling, frames: int | None) -> None:
    assert sampled_frames(sample, sampling) == frames


@pytest.mark.parametrize(
    ("sample", "frames"),
    [
        (entry("png"), 1 + 9),  # the most of all pictures
        (entry("png", width=64, height=32), 1 + 2),
        (entry("jpg", width=10, height=10), 1 + 1),
        (entry("png", width="wide", height=0), 1 + 9),
        (entry("mp4", num_frames=5, width=64, height=32), 5),
        (entry("json"), 0),
    ],
)
def test_frames_of_a_picture_in_tiles_follow_from_its_size(sample: IndexEntry, frames: int) -> None:
    pictures = TiledPictures(PictureTiles(per_side=3), tile_size=32)
    assert sampled_frames(sample, FrameSampling(num_frames=16), pictures) == frames


def test_a_picture_beside_other_media_is_one_frame_also_where_others_are_cut() -> None:
    several = entry("0.png")._replace(members={"json": (0, 1), "0.png": (0, 1), "1.jpg": (0, 1)}, media_meta=({}, {}))
    pictures = TiledPictures(PictureTiles(), tile_size=32)
    assert sampled_frames(several, FPS, pictures) == 2


@pytest.fixture
def reader(tmp_path: Path) -> ShardReader:
    clip = make_clip(2)
    samples: list[RawSample] = [
        ("video", make_record([("which colour ?", "red"), ("how many ?", "one")]), clip, "mp4"),
        ("text", make_record([("say more", "hello hello")], media=False), None, None),
        ("image", make_record(), make_image(), "png"),
    ]
    return ShardReader([load_index(write_shard(tmp_path / "mixed.tar", samples))])


def test_a_table_of_lengths_is_read_from_the_index(reader: ShardReader) -> None:
    samples = tabulate(reader, FrameSampling(num_frames=4), TextTokens(3.0, 0.5), visual_tokens=100)
    assert samples.frames.tolist() == [4, 0, 1]
    assert samples.modality.tolist() == [VIDEO, TEXT, IMAGE]
    assert samples.first_conversation.tolist() == [0, 2, 3, 4]
    characters = [len("<video>\nwhich colour ?red"), len("<video>\nhow many ?one"), len("say morehello hello")]
    expected = [round(3 + 0.5 * count) for count in characters]
    assert samples.tokens[:3].tolist() == [expected[0] + 100, expected[1] + 100, expected[2]]
    assert tabulate(reader, FPS, None, 100).tokens.tolist() == [0] * 4


def test_a_kept_index_knows_the_text_lengths_too(reader: ShardReader) -> None:
    again = load_index(reader.shards[0].url)
    assert [one.text_lengths for one in again.entries] == [one.text_lengths for one in reader.shards[0].entries]


def test_samples_of_unknown_length_are_named(reader: ShardReader) -> None:
    with pytest.raises(ValueError, match=r"1 of 3 samples do not state their length.*key 'video'.*meta.duration_ms"):
        tabulate(reader, FPS, None, 0).check_lengths(reader)
    tabulate(reader, FrameSampling(num_frames=4), None, 0).check_lengths(reader)


def test_tokens_are_estimated_from_characters(tmp_path: Path, tokenizer: Any) -> None:
    generator = np.random.default_rng(0)
    samples: list[RawSample] = []
    for number in range(40):
        words = ["red", "green", "square"]
        text = " ".join(words[index] for index in generator.integers(0, 3, generator.integers(1, 60)))
        samples.append((f"t{number}", make_record([(text, "one")], media=False), None, None))
    reader = ShardReader([load_index(write_shard(tmp_path / "text.tar", samples))])
    text_tokens = measure_text_tokens([reader], tokenizer)
    assert text_tokens == measure_text_tokens([reader], tokenizer)
    estimated = tabulate(reader, FPS, text_tokens, 0).tokens
    turns = [reader.read(index).record.conversations[0].turns for index in range(len(reader))]
    counted = np.array([len(build_turns(one, tokenizer).input_ids) for one in turns])
    assert np.abs(estimated - counted).max() <= 8
    assert abs(int(estimated.sum()) - int(counted.sum())) <= len(counted)
    assert (text_tokens._replace(max_length=20).estimate(np.array([10_000])) == 20).all()


def test_conversations_of_one_length_are_measured_too(reader: ShardReader, tmp_path: Path, tokenizer: Any) -> None:
    shard = write_shard(
        tmp_path / "same.tar", [(f"t{number}", make_record(media=False), None, None) for number in "ab"]
    )
    alike = ShardReader([load_index(shard)])
    tokens = tabulate(alike, FPS, measure_text_tokens([alike, reader], tokenizer), 0).tokens
    assert (tokens > 0).all()


def test_text_that_cannot_be_encoded_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    wrong = ShardReader([load_index(write_members(tmp_path / "wrong.tar", [("a.json", b"{")]))])
    with pytest.raises(SampleError, match=r"no conversation can be encoded.*malformed JSON"):
        measure_text_tokens([wrong], tokenizer)


def test_draws_divide_the_conversations_of_a_sample_evenly() -> None:
    samples = table([8] * 5, [1, 4, 5, 0, 12])
    draws = divide_samples(samples, 4)
    sizes = draws.end_conversation - draws.first_conversation
    assert draws.sample.tolist() == [0, 1, 2, 2, 3, 4, 4, 4]
    assert sizes.tolist() == [1, 4, 2, 3, 0, 4, 4, 4]
    assert divide_samples(samples, None).sample.tolist() == [0, 1, 2, 3, 4]
    assert draws.of_samples(np.array([4, 0, 2])).tolist() == [5, 6, 7, 0, 2, 3]


def test_the_longest_draw_is_that_of_the_longest_conversations_together() -> None:
    samples = table([8] * 2, [3, 2])._replace(tokens=np.array([5, 50, 20, 30, 30]))
    assert longest_draw(samples, divide_samples(samples, None)) == 75
    assert longest_draw(samples, divide_samples(samples, 2)) == 70
    assert longest_draw(samples, divide_samples(samples, 1)) == 50


@pytest.mark.parametrize("wrong", [{"frame_tokens": -1.0}, {"visual_tokens": -1}])
def test_negative_costs_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Cost(**wrong)
