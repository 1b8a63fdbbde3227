from collections.abc import Sequence

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch.plugins.precision import HalfPrecision

from components import interfaces
from components.interfaces import TEXT_ONLY
from datamodules import batch as batch_module
from datamodules.batch import Batch, EncodedConversation, Question, Sample, SampleMedia, collate


def conversation(length: int, key: str = "k", media: tuple[int, ...] = ()) -> EncodedConversation:
    question = Question(key, "q", "made", "colour", "which ?", "red", ("red", "blue"), 2, {"length": "1x"})
    return EncodedConversation(torch.arange(1, length + 1), torch.arange(1, length + 1), question, media)


def medium(num_frames: int, *, size: int = 4, seed: int = 0) -> SampleMedia:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (num_frames, 3, size, size), dtype=torch.uint8, generator=generator)
    return SampleMedia(frames, torch.arange(num_frames) * 250)


def sample(key: str, num_frames: int | None, *lengths: int, size: int = 4) -> Sample:
    media = () if num_frames is None else (medium(num_frames, size=size, seed=sum(key.encode())),)
    shown = tuple(range(len(media)))
    return Sample(key, media, tuple(conversation(length, key, shown) for length in lengths))


def several(key: str, num_frames: Sequence[int], *shown: tuple[int, ...]) -> Sample:
    """A sample with media of these lengths, and a conversation for each tuple of shown media."""
    conversations = tuple(conversation(3 + number, key, media) for number, media in enumerate(shown))
    media = (medium(frames, seed=sum(key.encode()) + number) for number, frames in enumerate(num_frames))
    return Sample(key, tuple(media), conversations)


MIXED = [
    sample("video", 5, 3, 7),
    sample("text", None, 4),
    sample("image", 1, 2),
    several("album", (2, 1, 3), (0, 1, 2), (2, 0), (1,)),
    sample("long", 9, 6),
]


def test_mixed_batch_equals_its_samples_one_by_one() -> None:
    joined = collate(MIXED)
    frame, row, video = 0, 0, 0
    for item in MIXED:
        single = collate([item])
        rows = slice(row, row + len(item.conversations))
        length = single.input_ids.shape[1]
        assert torch.equal(joined.input_ids[rows, :length], single.input_ids)
        assert torch.equal(joined.labels[rows, :length], single.labels)
        assert torch.equal(joined.text_mask[rows, :length], single.text_mask)
        assert not joined.text_mask[rows, length:].any()
        assert (joined.labels[rows, length:] == batch_module.IGNORED_LABEL).all()
        assert joined.questions[rows] == single.questions
        num_frames = len(single.frames)
        assert torch.equal(
            joined.frames[frame : frame + num_frames], single.frames if num_frames else joined.frames[:0]
        )
        assert torch.equal(joined.frame_ms[frame : frame + num_frames], single.frame_ms)
        num_shown = single.video_index.shape[1]
        expected = torch.where(single.video_index == TEXT_ONLY, TEXT_ONLY, single.video_index + video)
        assert torch.equal(joined.video_index[rows, :num_shown], expected)
        assert (joined.video_index[rows, num_shown:] == TEXT_ONLY).all()
        frame, row, video = frame + num_frames, row + len(item.conversations), video + len(item.media)
    assert joined.frame_counts.tolist() == [5, 1, 2, 1, 3, 9]


def test_a_medium_is_in_a_batch_once_and_every_conversation_lists_what_it_shows() -> None:
    batch = collate([several("album", (2, 1, 3), (0, 1, 2), (2, 0), (1,)), sample("text", None, 4)])
    assert batch.frame_counts.tolist() == [2, 1, 3]
    assert len(batch.frames) == 6
    assert batch.video_index.tolist() == [
        [0, 1, 2],
        [2, 0, TEXT_ONLY],
        [1, TEXT_ONLY, TEXT_ONLY],
        [TEXT_ONLY, TEXT_ONLY, TEXT_ONLY],
    ]
    assert batch.video_index.dtype == torch.int64


def test_text_alone_makes_a_batch_without_video() -> None:
    batch = collate([sample("a", None, 3), sample("b", None, 5)])
    assert batch.frames.shape[:2] == (0, 3)
    assert batch.frames.dtype == torch.uint8
    assert batch.frame_counts.shape == batch.frame_ms.shape == (0,)
    assert batch.frame_counts.dtype == batch.frame_ms.dtype == batch.video_index.dtype == torch.int64
    assert batch.video_index.tolist() == [[-1], [-1]]


def test_cached_features_keep_their_type() -> None:
    features = torch.randn(3, 5, 8, dtype=torch.bfloat16)
    cached = Sample("f", (SampleMedia(features, torch.arange(3)),), (conversation(2, media=(0,)),))
    batch = collate([cached, sample("t", None, 2)])
    assert torch.equal(batch.frames, features)


def test_batch_survives_device_move_and_float_cast() -> None:
    batch = collate(MIXED)
    moved = move_data_to_device(batch, torch.device("meta"))
    cast = HalfPrecision("bf16-true").convert_input(batch)
    for result in (moved, cast):
        assert isinstance(result, Batch)
        assert result.questions == batch.questions
        assert isinstance(result.questions[0], Question)
    on_device = {name for name, value in moved._asdict().items() if torch.is_tensor(value) and value.is_meta}
    assert on_device == {"frames", "frame_ms"}  # the host plans the step with the others
    assert cast.frame_ms.dtype == torch.int64


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no sample"),
        ([sample("a", 2)], "'a' has no conversation"),
        (
            [Sample("a", (medium(2)._replace(frame_ms=torch.arange(3)),), (conversation(3),))],
            "'a': 2 frames but 3 frame",
        ),
        ([sample("a", 0, 3)], "'a' has a video of no frame"),
        ([sample("a", 2, 3), sample("b", 2, 3, size=8)], r"\[3, 4, 4\]: a; .*\[3, 8, 8\]: b"),
        (
            [sample("a", 2, 3), Sample("f", (SampleMedia(torch.zeros(1, 5, 8), torch.zeros(1)),), (conversation(2),))],
            "cached features",
        ),
        ([Sample("a", (), (conversation(3)._replace(labels=torch.zeros(2)),))], "'a': 3 input ids but 2 labels"),
        ([several("a", (2, 1), (0, 1), (1, 2))], "'a': a conversation shows medium 2 of 2"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(samples: list[Sample], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate(samples)


@pytest.mark.parametrize("name", ["IGNORED_LABEL", "VIDEO_PLACEHOLDER", "TEXT_ONLY"])
def test_constants_equal_those_of_the_model(name: str) -> None:
    assert getattr(batch_module, name) == getattr(interfaces, name)


def test_batch_has_what_the_model_reads() -> None:
    fields = {name for name in vars(interfaces.VideoTextBatch) if not name.startswith("_")}
    assert fields <= set(Batch._fields)
