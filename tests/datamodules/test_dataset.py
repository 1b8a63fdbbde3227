import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from datamodules.batch import IGNORED_LABEL, collate
from datamodules.dataset import ConversationDataset
from datamodules.errors import BrokenMediaError, SampleError
from datamodules.media.decoded_frames import DecodedFrames
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.decoding_process import decode_media
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.transforms import Augmentation, PixelOptions, PixelTransform
from datamodules.order.training_order import Draw
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader
from tests.datamodules.several_media import record_of, write_several
from tests.fixtures_data import RawSample, make_clip, make_image, make_record, with_later_turns, write_shard


def dataset(path: Path, tokenizer: Any, *, augment: bool = False, **options: Any) -> ConversationDataset:
    augmentation = Augmentation(horizontal_flip=0.5, color_jitter=0.5) if augment else Augmentation()
    transform = PixelTransform(PixelOptions(32, augmentation=augmentation), train=True)
    media = MediaReader(FrameSampling(num_frames=4), transform)
    return ConversationDataset(ShardReader([load_index(path)]), tokenizer, media, **options)


def features(num_frames: int = 3, **changes: Any) -> bytes:
    tensors = {"features": torch.randn(num_frames, 5, 8).bfloat16(), "frame_ms": torch.arange(num_frames) * 250}
    return save({name: tensor for name, tensor in (tensors | changes).items() if tensor is not None})


QUESTIONS = [("which colour ?", "red"), ("what shape ?", "a star")]
MIXED: list[RawSample] = [
    ("video", make_record(QUESTIONS, meta={"length": "1x", "num_frames": 9}), make_clip(9), "mp4"),
    ("image", make_record(), make_image(), "png"),
    ("text", make_record(media=False), None, None),
    ("short", make_record(), make_clip(1), "mp4"),
]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write_shard(tmp_path / "mixed.tar", MIXED)


def test_samples_of_every_kind_come_out_whole(mixed: Path, tokenizer: Any) -> None:
    data = dataset(mixed, tokenizer)
    video, image, text, short = data.__getitems__([Draw(index, index) for index in range(len(data))])
    assert [medium.frames.shape for medium in video.media] == [(4, 3, 32, 32)]
    assert len(video.conversations) == 2
    assert image.media[0].frames.shape == short.media[0].frames.shape == (1, 3, 32, 32)
    assert text.media == ()
    question = video.conversations[1].question
    assert question[:7] == ("video", "q1", "made", "colour", "what shape ?", "a star", ())
    assert (question.num_frames, question.meta) == (4, {"length": "1x", "num_frames": "9"})
    assert text.conversations[0].question.num_frames == 0


def test_every_turn_of_a_conversation_is_a_question(tmp_path: Path, tokenizer: Any) -> None:
    record = with_later_turns(make_record(), ("and then ? ", " a star "), ("how many ?", "one"))
    sample = dataset(write_shard(tmp_path / "turns.tar", [("a", record, make_image(), "png")]), tokenizer)[Draw(0, 0)]
    [conversation] = sample.conversations
    asked = [("which colour ?", "red"), ("and then ?", "a star"), ("how many ?", "one")]
    assert conversation.question.turns == tuple(asked)
    assert (conversation.question.question, conversation.question.answer) == asked[0]


@pytest.mark.parametrize(
    ("extra", "media", "seconds"),
    [
        ({"meta": {"duration_ms": 2500}}, (make_clip(9), "mp4"), 2.5),
        ({"start_ms": 500, "end_ms": 1500, "meta": {"duration_ms": 2500}}, (make_clip(9), "mp4"), 1.0),
        ({"start_ms": 500, "end_ms": 9000, "meta": {"duration_ms": 1750}}, (make_clip(9), "mp4"), 1.75),
        ({"start_ms": 500, "end_ms": 1500}, (make_clip(9), "mp4"), 1.0),
        ({}, (features(), "safetensors"), 0.75),
        ({}, (make_image(), "png"), None),
        ({}, (make_clip(1), "mp4"), None),
    ],
)
def test_questions_know_how_long_their_videos_are(
    tmp_path: Path, tokenizer: Any, extra: dict[str, Any], media: tuple[bytes, str], seconds: float | None
) -> None:
    path = write_shard(tmp_path / "length.tar", [("a", make_record(**extra), *media)])
    [conversation] = dataset(path, tokenizer)[Draw(0, 0)].conversations
    assert conversation.question.seconds == seconds


def test_length_of_several_media_is_that_of_their_videos_and_unknown_lengths_are_estimated(
    tmp_path: Path, tokenizer: Any
) -> None:
    about_both = record_of("<video><video>\nwhich colour ?", "<video_1>\nhow many ?")
    path = write_several(tmp_path / "several.tar", [("a", about_both, [(make_clip(9), "mp4"), (make_image(), "png")])])
    both, picture = dataset(path, tokenizer)[Draw(0, 0)].conversations
    assert both.question.seconds == pytest.approx(9 / 4, abs=0.5)
    assert picture.question.seconds is None


def test_a_video_is_decoded_once_for_all_its_questions(
    mixed: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[MediaRequest] = []

    def counted(request: MediaRequest, settings: Decoding) -> DecodedFrames:
        decoded.append(request)
        return decode_media(request, settings)

    monkeypatch.setattr("datamodules.media.media_reader.decode_media", counted)
    batch = collate(dataset(mixed, tokenizer).__getitems__([Draw(0, 0)]))
    assert len(decoded) == 1
    assert batch.video_index.tolist() == [[0], [0]]
    assert batch.frame_counts.tolist() == [4]


def test_a_draw_may_ask_for_some_of_the_conversations(mixed: Path, tokenizer: Any) -> None:
    data = dataset(mixed, tokenizer)
    whole, part = data[Draw(0, 0)], data[Draw(0, 0, (1,))]
    assert [one.question.id for one in part.conversations] == ["q1"]
    assert torch.equal(part.conversations[0].input_ids, whole.conversations[1].input_ids)
    assert torch.equal(part.media[0].frames, whole.media[0].frames)


def test_batch_of_mixed_items_equals_items_one_by_one(mixed: Path, tokenizer: Any) -> None:
    data = dataset(mixed, tokenizer, augment=True)
    draws = [Draw(index, 10 + index) for index in range(len(data))]
    joined = collate(data.__getitems__(draws))
    singles = [collate([data[draw]]) for draw in draws]
    with_media = [single for single in singles if len(single.frames)]
    assert torch.equal(joined.frames, torch.cat([single.frames for single in with_media]))
    assert torch.equal(joined.frame_ms, torch.cat([single.frame_ms for single in singles]))
    assert joined.questions == sum((single.questions for single in singles), ())
    row = 0
    for single in singles:
        for ids, labels in zip(single.input_ids, single.labels, strict=True):
            assert torch.equal(joined.input_ids[row][: len(ids)], ids)
            assert torch.equal(joined.labels[row][: len(labels)], labels)
            row += 1


def test_augmentation_follows_seed_and_position_alone(mixed: Path, tokenizer: Any) -> None:
    data, again = (dataset(mixed, tokenizer, augment=True, seed=3) for _ in range(2))
    first = data[Draw(0, 5)].media[0].frames
    assert torch.equal(first, again[Draw(0, 5)].media[0].frames)
    others = [data[Draw(0, position)].media[0].frames for position in range(6, 12)]
    assert any(not torch.equal(first, other) for other in others)


def test_cached_features_come_with_their_times(tmp_path: Path, tokenizer: Any) -> None:
    stored = torch.randn(3, 5, 8).bfloat16()
    path = write_shard(tmp_path / "f.tar", [("a", make_record(), features(features=stored), "safetensors")])
    sample = dataset(path, tokenizer)[Draw(0, 0)]
    assert torch.equal(sample.media[0].frames, stored)
    assert sample.media[0].frame_ms.tolist() == [0, 250, 500]


@pytest.mark.parametrize(
    "data",
    [
        b"nothing",
        features()[:-10],
        features(frame_ms=None),
        features(frame_ms=torch.arange(2)),
        features(frame_ms=torch.zeros(3)),
        features(features=torch.zeros(3, 8)),
        features(features=torch.zeros(3, 5, 8, dtype=torch.uint8)),
        features(0),
    ],
    ids=["no file", "cut off", "no times", "two times", "real times", "two axes", "integers", "no frame"],
)
def test_broken_features_are_an_error_with_their_key(tmp_path: Path, tokenizer: Any, data: bytes) -> None:
    path = write_shard(tmp_path / "f.tar", [("a", make_record(), data, "safetensors")])
    with pytest.raises(BrokenMediaError, match=r"f\.tar, key 'a': .*write the feature shards again"):
        dataset(path, tokenizer)[Draw(0, 0)]


def test_an_unknown_word_that_is_also_the_end_of_a_text_is_none(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    strange = make_record([("perpendicular zeugma ?", "quixotic")], media=False)
    shard = write_shard(tmp_path / "x.tar", [("a", strange, None, None)])
    for role in ("bos_token", "eos_token", "pad_token"):
        like_gpt2 = copy.deepcopy(tokenizer)
        setattr(like_gpt2, role, like_gpt2.unk_token)
        dataset(shard, like_gpt2)[Draw(0, 0)]
    assert caplog.records == []


def test_words_that_the_tokenizer_does_not_know_are_told_once(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    strange = make_record([("perpendicular zeugma ?", "quixotic"), ("borborygmus ?", "zyzzyva")], media=False)
    data = dataset(write_shard(tmp_path / "x.tar", [("a", strange, None, None)]), tokenizer)
    data[Draw(0, 0)]
    data[Draw(0, 1)]
    [said] = [record.getMessage() for record in caplog.records]
    assert "key 'a', conversation 'q0'" in said
    assert "'<unk>'" in said


def test_a_conversation_that_is_too_long_is_named(mixed: Path, tokenizer: Any) -> None:
    with pytest.raises(
        SampleError, match=r"mixed\.tar, key 'video', conversation 'q0': \d+ tokens, but max_length is 5"
    ):
        dataset(mixed, tokenizer, max_length=5)[Draw(0, 0)]


def test_every_conversation_has_something_to_learn(mixed: Path, tokenizer: Any) -> None:
    data = dataset(mixed, tokenizer)
    batch = collate([data[Draw(index, 0)] for index in range(len(data))])
    assert ((batch.labels != IGNORED_LABEL).sum(dim=1) > 0).all()


def test_samples_are_located_by_key_in_every_shard_that_has_it(mixed: Path, tokenizer: Any, tmp_path: Path) -> None:
    other = write_shard(tmp_path / "other.tar", MIXED[2:3])
    media = MediaReader(FrameSampling(4), PixelTransform(PixelOptions(32), train=False))
    data = ConversationDataset(ShardReader([load_index(mixed), load_index(other)]), tokenizer, media)
    assert data.locate({"text", "image", "none such"}) == {
        "text": [(str(mixed), ["text.json"]), (str(other), ["text.json"])],
        "image": [(str(mixed), ["image.png", "image.json"])],
        "none such": [],
    }
