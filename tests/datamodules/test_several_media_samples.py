"""Samples with several media, from the shard to the batch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from components.interfaces import IGNORED_LABEL, TEXT_ONLY, VIDEO_PLACEHOLDER
from datamodules.batch import collate
from datamodules.conversations import load_tokenizer
from datamodules.dataset import ConversationDataset
from datamodules.errors import BrokenMediaError
from datamodules.failures import FailurePolicy
from datamodules.media.decoded_frames import DecodedFrames
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.decoding_process import decode_media
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.picture_tiles import PictureTiles
from datamodules.media.transforms import Augmentation, PixelOptions, PixelTransform
from datamodules.order.draws import tabulate
from datamodules.order.text_tokens import TextTokens
from datamodules.order.training_order import Draw
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader
from datamodules.shards.shard_writer import ShardWriter
from datamodules.validate.shard_check import ShardCheck
from tests.datamodules.several_media import Several, record_of, write_several
from tests.fixtures_data import frame_level, make_clip, make_image, make_record, make_samples
from tests.fixtures_models import IMAGE_SIZE, make_model, make_part_folders

CLIP, PICTURE = make_clip(9), make_image(200)
ALBUM: Several = (
    "album",
    record_of(
        "<video> <video> or <video> ?",
        "is <video_2> like <video_0> ?",
        "what is <video_1> ?",
        media=[{"meta": {"media": "first.png"}}, {"meta": {"num_frames": 9, "media": "clip.mp4"}}, {}],
    ),
    [(PICTURE, "png"), (CLIP, "mp4"), (make_image(50), "jpg")],
)
PAIR: Several = ("pair", record_of("<video>\nand\n<video> ?"), [(make_clip(2), "mp4"), (make_clip(5), "webm")])


def dataset(path: Path, tokenizer: Any, *, augment: bool = False, **options: Any) -> ConversationDataset:
    augmentation = Augmentation(horizontal_flip=0.5, color_jitter=0.5) if augment else Augmentation()
    transform = PixelTransform(PixelOptions(16, augmentation=augmentation), train=True)
    media = MediaReader(FrameSampling(num_frames=4), transform)
    return ConversationDataset(ShardReader([load_index(path)]), tokenizer, media, **options)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "mixed") as writer:
        for key, record, media in (ALBUM, PAIR):
            writer.write_several(key, record, media)
        for sample in make_samples(1):
            writer.write(*sample)
        writer.write("text", make_record(media=False))
    return writer.paths[0]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The member of every medium that is decoded."""
    members: list[str] = []

    def counted(request: MediaRequest, settings: Decoding) -> DecodedFrames:
        members.append(request.where.rpartition("member ")[2])
        return decode_media(request, settings)

    monkeypatch.setattr("datamodules.media.media_reader.decode_media", counted)
    return members


def test_a_medium_that_several_conversations_show_is_decoded_once(
    shard: Path, tokenizer: Any, decoded: list[str]
) -> None:
    batch = collate([dataset(shard, tokenizer)[Draw(0, 0)]])
    assert decoded == ["'0.png'", "'1.mp4'", "'2.jpg'"]
    assert batch.frame_counts.tolist() == [1, 4, 1]
    assert batch.video_index.tolist() == [[0, 1, 2], [2, 0, TEXT_ONLY], [1, TEXT_ONLY, TEXT_ONLY]]
    levels = [frame_level(index) for index in (1, 3, 5, 7)]
    expected = torch.tensor([200, *levels, 50], dtype=torch.float32)
    assert (batch.frames.float().mean(dim=(1, 2, 3)) - expected).abs().max() < 3
    assert [question.num_frames for question in batch.questions] == [6, 2, 4]


def test_a_medium_that_no_drawn_conversation_shows_is_not_decoded(
    shard: Path, tokenizer: Any, decoded: list[str]
) -> None:
    data = dataset(shard, tokenizer)
    batch = collate([data[Draw(0, 0, (1,))]])
    assert decoded == ["'0.png'", "'2.jpg'"]
    assert batch.frame_counts.tolist() == [1, 1]
    assert batch.video_index.tolist() == [[1, 0]]
    whole = collate([data[Draw(0, 0)]])
    assert torch.equal(batch.frames, whole.frames[[0, 5]])


def test_every_mark_becomes_a_placeholder_in_the_order_of_the_media(shard: Path, tokenizer: Any) -> None:
    sample = dataset(shard, tokenizer)[Draw(0, 0)]
    counts = [int((one.input_ids == VIDEO_PLACEHOLDER).sum()) for one in sample.conversations]
    assert counts == [len(one.media) for one in sample.conversations] == [3, 2, 1]
    (pair,) = dataset(shard, tokenizer)[Draw(1, 0)].conversations
    ids = pair.input_ids.tolist()
    first, second = (index for index, token in enumerate(ids) if token == VIDEO_PLACEHOLDER)
    assert tokenizer.convert_ids_to_tokens(ids[first + 1 : second]) == ["\n", "and", "\n"]
    assert VIDEO_PLACEHOLDER not in pair.labels
    assert tokenizer.decode(pair.labels[pair.labels != IGNORED_LABEL]).split() == ["red", "<|im_end|>"]


def test_a_batch_of_several_media_equals_its_samples_one_by_one(shard: Path, tokenizer: Any) -> None:
    data = dataset(shard, tokenizer, augment=True)
    draws = [Draw(index, 10 + index) for index in range(len(data))]
    joined = collate(data.__getitems__(draws))
    singles = [collate([data[draw]]) for draw in draws]
    assert torch.equal(joined.frames, torch.cat([single.frames for single in singles if len(single.frames)]))
    assert torch.equal(joined.frame_counts, torch.cat([single.frame_counts for single in singles]))
    row = video = 0
    for single in singles:
        for ids, shown in zip(single.input_ids, single.video_index, strict=True):
            assert torch.equal(joined.input_ids[row, : len(ids)], ids)
            expected = [number if number == TEXT_ONLY else number + video for number in shown.tolist()]
            assert joined.video_index[row].tolist() == expected + [TEXT_ONLY] * (3 - len(expected))
            row += 1
        video += len(single.frame_counts)


def test_only_a_picture_that_is_alone_in_its_sample_is_cut_into_tiles(tmp_path: Path, tokenizer: Any) -> None:
    with ShardWriter(tmp_path / "pictures") as writer:
        writer.write("alone", make_record(), PICTURE, "png")
        writer.write_several(*ALBUM)
        writer.write("text", make_record(media=False))
    options = PixelOptions(16, "stretch", tiles=PictureTiles(3))
    media = MediaReader(FrameSampling(num_frames=4), PixelTransform(options, train=True))
    data = ConversationDataset(ShardReader([load_index(writer.paths[0])]), tokenizer, media)
    batch = collate(data.__getitems__([Draw(0, 0), Draw(1, 1), Draw(2, 2), Draw(1, 3, (2,))]))
    tiles = PictureTiles(3).most_frames((48, 64), 16)
    assert batch.frame_counts.tolist() == [tiles, 1, 4, 1, 4]
    assert batch.picture_sizes.tolist() == [[48, 64], [48, 64], [0, 0], [48, 64], [0, 0]]
    assert batch.questions[0].num_frames == 1
    assert collate([data[Draw(2, 0)]]).picture_sizes.shape == (0, 2)
    moved = batch.to("meta")
    assert moved.picture_sizes.device == batch.frame_counts.device == torch.device("cpu")


def test_the_loss_of_a_batch_is_that_of_its_conversations_one_by_one(shard: Path, tmp_path: Path) -> None:
    folders = make_part_folders(tmp_path)
    transform = PixelTransform(PixelOptions(IMAGE_SIZE), train=False)
    media = MediaReader(FrameSampling(num_frames=4), transform)
    data = ConversationDataset(ShardReader([load_index(shard)]), load_tokenizer(folders.language_model), media)
    model = make_model(folders).eval()
    alone = [
        collate([data[draw]]) for draw in (*(Draw(0, 0, (number,)) for number in range(3)), Draw(1, 0), Draw(3, 0))
    ]
    together = collate(data.__getitems__([Draw(0, 0), Draw(1, 0), Draw(3, 0)]))
    with torch.no_grad():
        losses = torch.stack([model(batch).loss for batch in alone])
        loss = model(together).loss
    num_learned = torch.tensor([int((batch.labels != IGNORED_LABEL).sum()) for batch in alone])
    torch.testing.assert_close(loss, (losses * num_learned).sum() / num_learned.sum(), atol=1e-5, rtol=0)


def test_each_medium_is_augmented_by_itself_and_by_seed_and_position(tmp_path: Path, tokenizer: Any) -> None:
    same = [(PICTURE, "png")] * 8
    path = write_several(tmp_path / "x.tar", [("a", record_of("<video>" * 8 + " ?"), same)])
    first, again = (dataset(path, tokenizer, augment=True)[Draw(0, 3)].media for _ in range(2))
    assert all(torch.equal(one.frames, other.frames) for one, other in zip(first, again, strict=True))
    assert any(not torch.equal(first[0].frames, other.frames) for other in first[1:])


def test_the_question_of_a_report_shows_where_the_media_are_if_there_are_several(shard: Path, tokenizer: Any) -> None:
    questions = collate(dataset(shard, tokenizer).__getitems__([Draw(0, 0), Draw(2, 1)])).questions
    assert [question.question for question in questions] == [
        "<video> <video> or <video> ?",
        "is <video> like <video> ?",
        "what is  ?",
        "which colour ?",
    ]
    assert [question.meta.get("media") for question in questions] == [
        "first.png, clip.mp4",
        "first.png",
        "clip.mp4",
        None,
    ]


def test_a_broken_medium_names_itself(tmp_path: Path, tokenizer: Any) -> None:
    broken: Several = ("pair", PAIR[1], [(CLIP, "mp4"), (CLIP[:400], "mp4")])
    path = write_several(tmp_path / "x.tar", [broken])
    with pytest.raises(BrokenMediaError, match=r"x\.tar, key 'pair', member '1\.mp4': the video cannot be decoded"):
        dataset(path, tokenizer)[Draw(0, 0)]


def test_a_sample_with_a_broken_medium_is_skipped_with_all_its_media(tmp_path: Path, tokenizer: Any) -> None:
    facts = [{"meta": {"media": "good.mp4"}}, {"meta": {"media": "bad.mp4"}}]
    record = record_of("<video><video> ?", "<video_0> ?", media=facts)
    broken: Several = ("broken", record, [(CLIP, "mp4"), (CLIP[:400], "mp4")])
    path = write_several(tmp_path / "x.tar", [broken, PAIR])
    listed = tmp_path / "skipped.jsonl"
    data = dataset(path, tokenizer, failures=FailurePolicy("skip", str(listed)))
    batch = collate(data.__getitems__([Draw(0, 0), Draw(1, 1)]))
    assert [question.key for question in batch.questions] == ["pair"]
    assert (batch.frame_counts.tolist(), batch.left_out) == ([2, 4], ("media",))
    (line,) = map(json.loads, listed.read_text().splitlines())
    assert (line["key"], line["kind"], line["media"]) == ("broken", "media", "good.mp4, bad.mp4")
    assert "member '1.mp4'" in line["reason"]
    assert collate(data.__getitems__([Draw(0, 2, (1,))])).left_out == (), "that one does not show the broken medium"


def test_frames_and_tokens_of_all_media_are_counted(shard: Path) -> None:
    reader = ShardReader([load_index(shard)])
    samples = tabulate(reader, FrameSampling(num_frames=6), TextTokens(0, 0), visual_tokens=100)
    assert samples.frames.tolist() == [8, 12, 3, 0]
    assert samples.tokens.tolist() == [300, 200, 100, 200, 100, 0]
    assert tabulate(reader, FrameSampling(None, fps=1), None, 0).frames.tolist() == [11, -1, 3, 0]


def test_media_that_no_conversation_shows_are_not_counted(tmp_path: Path) -> None:
    path = write_several(tmp_path / "x.tar", [("a", record_of("<video_0> ?"), [(PICTURE, "png"), (CLIP, "mp4")])])
    assert tabulate(ShardReader([load_index(path)]), FrameSampling(6), None, 0).frames.tolist() == [1]


def test_the_validator_decodes_every_medium(tmp_path: Path, decoded: list[str]) -> None:
    broken: Several = ("broken", PAIR[1], [(CLIP, "mp4"), (CLIP[:400], "mp4")])
    path = write_several(tmp_path / "x.tar", [ALBUM, broken])
    good, bad = ShardCheck(thorough=True).run(str(path)).samples
    assert (good.modality, good.num_conversations, good.problem) == ("video", 3, None)
    assert bad.problem is not None
    assert bad.problem.kind == "media"
    assert "key 'broken', member '1.mp4'" in bad.problem.reason
    assert decoded == ["'0.png'", "'1.mp4'", "'2.jpg'", "'0.mp4'", "'1.mp4'"]
