"""The whole model with several readers: a memory beside fine frames, with words before each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.bridges.readouts.retrieved import RetrievedReadout
from components.building import ReaderSettings
from components.interfaces import LossSchedule, VisualReader, VisualTokens
from components.losses import EverySegmentLoss, FinalSegmentLoss
from components.model import VideoLanguageModel, text_of
from components.pooling.patch_pooling import GridPooling
from components.readers.fine_frames import FineFrames
from components.readers.token_store import TokenStore
from components.segmenters.fixed_length import FixedLength
from components.selection.linspace_frames import LinspaceFrames
from components.streaming import StreamingSession
from datamodules.batch import Batch, collate
from tests.fixtures_models import (
    NUM_PATCHES,
    TWO_STREAMS,
    PartFolders,
    make_batch,
    make_bridge,
    make_frames,
    make_mixed_samples,
    make_model,
    make_sample,
    make_two_reader_model,
    make_two_readers,
)

QUESTION = "which colour ?"
MakeReader = Callable[[int, int], VisualReader[Any]]
MEMORIES: dict[str, MakeReader] = {"memory": make_bridge, "asked": partial(make_bridge, readout=RetrievedReadout)}
every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
every_schedule = pytest.mark.parametrize(
    "schedule", [FinalSegmentLoss(), EverySegmentLoss("increasing")], ids=["final", "every"]
)


def video_batch(folders: PartFolders, num_frames: int = 5) -> Batch:
    return collate([make_sample(folders, "video", make_frames(num_frames), [[(QUESTION, "red")]])])


def words_of(model: VideoLanguageModel, words: str) -> Tensor:
    """Embeddings of words as the tokenizer cuts them, ``[number of tokens, E]``."""
    ids = model.language_model.tokenizer(words, add_special_tokens=False)["input_ids"]
    embedded: Tensor = model.language_model.embed(torch.tensor([ids]))[0]
    return embedded


def streams_of(model: VideoLanguageModel, batch: Batch) -> dict[str, VisualTokens]:
    """What each reader gives after the last segment."""
    states = model.read_videos(model.packed_videos(batch)).last
    questions = model.questions(text_of(batch))
    return {name: reader.read(states[name].reader, questions) for name, reader in model.readers.items()}


def seen_by_language_model(model: VideoLanguageModel, batch: Batch, **options: Any) -> VisualTokens:
    """The visual tokens of the last reading of a training step."""
    seen: list[VisualTokens] = []
    hook = model.language_model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(batch, **options)
    hook.remove()
    return seen[-1]


def test_readers_are_parts_under_their_names(folders: PartFolders) -> None:
    model = make_two_reader_model(folders)
    names = [name for name, _ in model.named_children()]
    assert {"memory", "frames"} <= set(names)
    assert "bridge" not in names
    assert model.readers == {"memory": model.memory, "frames": model.frames} == model.reader_parts


@every_memory
def test_language_model_sees_words_memory_words_frames(folders: PartFolders, memory: MakeReader) -> None:
    model = make_two_reader_model(folders, memory)
    batch = video_batch(folders)
    streams = streams_of(model, batch)
    visual = seen_by_language_model(model, batch)
    expected = [
        words_of(model, "This is a summary of the video:"),
        streams["memory"].tokens[0],
        words_of(model, "These are frames of it:"),
        streams["frames"].tokens[0],
    ]
    assert all(len(part) > 0 for part in expected)
    assert visual.mask.shape == (1, sum(map(len, expected)))
    torch.testing.assert_close(visual.tokens[0], torch.cat(expected), rtol=0, atol=1e-6)


def test_places_are_those_of_the_frames_and_none_elsewhere(folders: PartFolders) -> None:
    model = make_two_reader_model(folders)
    batch = video_batch(folders, num_frames=3)
    visual = model.visual_tokens(batch)
    assert visual.places is not None
    shown = [frame for frame in range(3) for _ in range(NUM_PATCHES)]
    before = [-1] * (visual.mask.shape[1] - len(shown))
    assert visual.places.frame[0].tolist() == before + shown
    assert visual.places.ms[0].tolist() == before + [1000 * frame for frame in shown]
    assert visual.places.cell[0].tolist() == before + [*range(NUM_PATCHES)] * 3


@every_memory
@every_schedule
def test_batch_of_mixed_items_equals_the_items_one_by_one(
    folders: PartFolders, memory: MakeReader, schedule: LossSchedule
) -> None:
    model = make_two_reader_model(folders, memory, loss_schedule=schedule)
    samples = make_mixed_samples(folders)
    together, alone = model(collate(samples)), [model(collate([sample])) for sample in samples]
    tokens = sum(output.num_answer_tokens for output in alone)
    expected = sum(output.loss * output.num_answer_tokens for output in alone) / tokens
    torch.testing.assert_close(together.loss, expected, rtol=0, atol=1e-5)


@every_memory
def test_answers_and_option_scores_of_a_mixed_batch_equal_those_of_its_items(
    folders: PartFolders, memory: MakeReader
) -> None:
    model = make_two_reader_model(folders, memory)
    samples = make_mixed_samples(folders)
    together, alone = collate(samples), [collate([sample]) for sample in samples]
    answers = [answer for batch in alone for answer in model.generate(batch, max_new_tokens=4)]
    assert model.generate(together, max_new_tokens=4) == answers
    options = ["red", "green circle"]
    scores = model.score_options(together, [options] * len(together.questions))
    expected = [score for batch in alone for score in model.score_options(batch, [options] * len(batch.questions))]
    torch.testing.assert_close(torch.stack(scores), torch.stack(expected), rtol=1e-4, atol=1e-4)


@every_memory
def test_padding_to_more_segments_changes_nothing(folders: PartFolders, memory: MakeReader) -> None:
    model = make_two_reader_model(folders, memory)
    plain = model(make_batch(folders))
    model.agree_on_maximum = lambda own: own + 3  # another rank has a longer video
    torch.testing.assert_close(model(make_batch(folders)).loss, plain.loss, rtol=0, atol=1e-5)


@every_memory
@pytest.mark.parametrize("segment_frames", [1, 4])
def test_streaming_equals_offline_at_every_moment(
    folders: PartFolders, memory: MakeReader, segment_frames: int
) -> None:
    model = make_two_reader_model(folders, memory, segmenter=FixedLength(segment_frames))
    frames = make_frames(11, seed=4)
    session = StreamingSession(model)
    for place in range(len(frames)):
        session.push(frames[place : place + 1], [1000 * place])
        now = session.visual_tokens(model.language_model.prompts([QUESTION]))
        so_far = collate([make_sample(folders, "so far", frames[: place + 1], [[(QUESTION, "red")]])])
        offline = model.visual_tokens(so_far)
        torch.testing.assert_close(now.tokens[now.mask], offline.tokens[offline.mask], rtol=1e-5, atol=1e-5)
        assert now.places is not None
        assert offline.places is not None
        for ours, theirs in zip(now.places, offline.places, strict=True):
            assert ours[now.mask].tolist() == theirs[offline.mask].tolist()


def test_answer_while_the_video_plays_equals_the_offline_answer(folders: PartFolders) -> None:
    model = make_two_reader_model(folders)
    frames = make_frames(7, seed=1)
    session = StreamingSession(model)
    session.push(frames, [1000 * place for place in range(7)])
    sample = make_sample(folders, "so far", frames, [[(QUESTION, "red")]])
    assert [session.ask(QUESTION, max_new_tokens=4)] == model.generate(collate([sample]), max_new_tokens=4)


@every_memory
@pytest.mark.parametrize("left_out", [frozenset(), frozenset({"frames"}), frozenset({"memory"})], ids=len)
def test_text_only_batch_touches_every_trainable_part(
    folders: PartFolders, memory: MakeReader, left_out: frozenset[str]
) -> None:
    model = make_two_reader_model(folders, memory)
    model(collate([make_sample(folders, "text", None, [[("say hello", "hello")]])]), left_out=left_out).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    for reader in model.readers.values():
        assert all(p.grad is not None and not p.grad.any() for p in reader.parameters())


@every_memory
def test_left_out_stream_is_not_seen_nor_are_its_words(folders: PartFolders, memory: MakeReader) -> None:
    model = make_two_reader_model(folders, memory)
    batch = video_batch(folders)
    memory_alone = torch.cat(
        [words_of(model, "This is a summary of the video:"), streams_of(model, batch)["memory"].tokens[0]]
    )
    visual = seen_by_language_model(model, batch, left_out=frozenset({"frames"}))
    torch.testing.assert_close(visual.tokens[0], memory_alone, rtol=0, atol=1e-6)


def test_left_out_stream_gets_a_zero_gradient_and_the_other_a_real_one(folders: PartFolders) -> None:
    for schedule in (FinalSegmentLoss(), EverySegmentLoss()):
        model = make_two_reader_model(folders, loss_schedule=schedule)
        model(make_batch(folders), left_out=frozenset({"frames"})).loss.backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.frames.parameters())
        assert any(bool(p.grad.any()) for p in model.memory.parameters())
        model.zero_grad()
        model(make_batch(folders)).loss.backward()
        assert all(bool(p.grad.any()) for p in model.frames.parameters())


def test_leaving_out_all_streams_is_refused(folders: PartFolders) -> None:
    model = make_two_reader_model(folders)
    with pytest.raises(ValueError, match="the language model would see nothing"):
        model(make_batch(folders), left_out=frozenset({"memory", "frames"}))


def test_every_reader_has_a_frame_selection_of_its_own(folders: PartFolders) -> None:
    readers = make_two_readers()
    frames = ReaderSettings(readers["frames"].reader, LinspaceFrames(1))
    model = make_two_reader_model(
        folders, readers={"memory": readers["memory"], "frames": frames}, segmenter=FixedLength(3)
    )
    output = model(video_batch(folders, num_frames=7))
    assert output.segment_groups["memory"].tolist() == [[3, 3, 1]]
    assert output.segment_groups["frames"].tolist() == [[1, 1, 1]]
    places = model.visual_tokens(video_batch(folders, num_frames=7)).places
    assert places is not None
    assert sorted(set(places.frame[places.frame >= 0].tolist())) == [0, 3, 6]


def test_readers_without_prompt_are_shown_in_their_order(folders: PartFolders) -> None:
    model = make_two_reader_model(folders, visual_prompt=None)
    batch = video_batch(folders)
    streams = streams_of(model, batch)
    expected = torch.cat([streams["memory"].tokens[0], streams["frames"].tokens[0]])
    torch.testing.assert_close(model.visual_tokens(batch).tokens[0], expected, rtol=0, atol=1e-6)


def test_one_named_reader_gives_what_the_short_form_gives(folders: PartFolders) -> None:
    short = make_model(folders)
    named = make_model(folders, bridge=None, readers={"memory": ReaderSettings(make_bridge)})
    batch = make_batch(folders)
    torch.testing.assert_close(named(batch).loss, short(batch).loss, rtol=0, atol=0)
    assert {name.replace("memory.", "bridge.") for name in named.state_dict()} == set(short.state_dict())


def test_both_readers_read_pooled_patches(folders: PartFolders) -> None:
    pooling = partial(GridPooling, grid=1)
    model = make_two_reader_model(folders, readers=make_two_readers(projection="none"), patch_pooling=pooling)
    read: list[int] = []
    model.memory.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].num_cells))
    batch = video_batch(folders, num_frames=2)
    patches = model.encoder(batch.frames, batch.frame_counts).patches
    visual = streams_of(model, batch)["frames"]
    torch.testing.assert_close(visual.tokens[0], patches.mean(dim=1), rtol=0, atol=1e-6)
    assert read == [1]


def test_two_fine_frame_readers_do_not_meet(folders: PartFolders) -> None:
    few, many = (partial(FineFrames, num_frames=number, capacity=4) for number in (1, 4))
    readers = {"few": ReaderSettings(few), "many": ReaderSettings(many)}
    model = make_model(folders, bridge=None, readers=readers)
    streams = streams_of(model, video_batch(folders, num_frames=4))
    assert [int(streams[name].mask.sum()) for name in readers] == [NUM_PATCHES, 4 * NUM_PATCHES]


def test_model_in_a_folder_opens_with_the_same_readers(folders: PartFolders, tmp_path: Path) -> None:
    frames = ReaderSettings(partial(FineFrames, num_frames=2, capacity=4), LinspaceFrames(1))
    everything = ReaderSettings(partial(TokenStore, max_tokens=400))
    model = make_two_reader_model(
        folders, readers=make_two_readers() | {"frames": frames, "all": everything}, visual_prompt=f"{TWO_STREAMS}<all>"
    )
    model.save_pretrained(tmp_path / "out")
    opened = VideoLanguageModel.from_pretrained(tmp_path / "out")
    assert list(opened.readers) == ["memory", "frames", "all"]
    assert torch.equal(opened(make_batch(folders)).loss, model(make_batch(folders)).loss)
