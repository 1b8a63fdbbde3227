"""Conversations about several videos: what the model reads is what one would put together by hand."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from components.bridges.readouts.retrieved import RetrievedReadout
from components.interfaces import IGNORED_LABEL, TEXT_ONLY, VIDEO_PLACEHOLDER, LossSchedule, TextInputs, VisualTokens
from components.losses import EverySegmentLoss, FinalSegmentLoss
from components.model import VideoLanguageModel, text_of
from datamodules.batch import Batch, Sample, collate
from tests.fixtures_models import (
    PartFolders,
    make_bridge,
    make_frames,
    make_model,
    make_sample,
    make_two_reader_model,
    open_gate,
)

ABOUT = [[0, 1], [1], [], [1, 0, 1]]  # videos of every conversation, in the order of their placeholders
ASKED = [("which colour ?", "red"), ("how many ?", "one two"), ("say hello", "hello"), ("which shape ?", "circle")]
LENGTHS = [6, 3]  # frames of the two videos: 3 and 2 segments


def one_reader(folders: PartFolders, **changes: object) -> VideoLanguageModel:
    model = make_model(folders, **changes)
    open_gate(model.bridge)  # type: ignore[arg-type]
    return model


MODELS: dict[str, Callable[..., VideoLanguageModel]] = {
    "one_reader": one_reader,
    "reads_questions": partial(one_reader, bridge=partial(make_bridge, readout=RetrievedReadout)),
    "two_readers": make_two_reader_model,
    "two_readers_one_asked": partial(make_two_reader_model, memory=partial(make_bridge, readout=RetrievedReadout)),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def video_sample(folders: PartFolders, video: int, asked: tuple[str, str]) -> Sample:
    return make_sample(folders, f"video{video}", make_frames(LENGTHS[video], seed=video), [[asked]])


def conversation(folders: PartFolders, number: int) -> Batch:
    """A conversation alone, with one placeholder if it is about any video; the video is that of its first one."""
    if not ABOUT[number]:
        return collate([make_sample(folders, "text", None, [[ASKED[number]]])])
    return collate([video_sample(folders, ABOUT[number][0], ASKED[number])])


def repeated(values: Tensor, at: Tensor, times: int) -> Tensor:
    """A row whose entry at the placeholder stands there several times."""
    return values.repeat_interleave(torch.where(at, times, 1))


def batch_about_all(folders: PartFolders) -> Batch:
    """All conversations in one batch of two videos."""
    ids, labels = [], []
    for number, about in enumerate(ABOUT):
        alone = conversation(folders, number)
        at = alone.input_ids[0] == VIDEO_PLACEHOLDER
        ids.append(repeated(alone.input_ids[0], at, len(about)))
        labels.append(repeated(alone.labels[0], at, len(about)))
    videos = collate([video_sample(folders, video, ASKED[0]) for video in range(len(LENGTHS))])
    most = max(map(len, ABOUT))
    return videos._replace(
        input_ids=pad_sequence(ids, batch_first=True),
        text_mask=pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True),
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
        video_index=torch.tensor([about + [TEXT_ONLY] * (most - len(about)) for about in ABOUT]),
        questions=tuple(conversation(folders, number).questions[0] for number in range(len(ABOUT))),
    )


def by_hand(model: VideoLanguageModel, folders: PartFolders, number: int, step: int) -> tuple[VisualTokens, TextInputs]:
    """The visual tokens of a conversation's videos after so many segments, one after the other, and its text."""
    text = text_of(conversation(folders, number))
    tokens = [torch.zeros(0, model.language_model.dim)]
    for video in ABOUT[number]:
        alone = collate([video_sample(folders, video, ASKED[number])])
        states = model.read_videos(model.packed_videos(alone)).states
        visual = model.read(states[min(step, len(states) - 1)], text_of(alone))
        tokens.append(visual.tokens[0][visual.mask[0]])
    joined = torch.cat(tokens)[None]
    return VisualTokens(joined, torch.ones(joined.shape[:2], dtype=torch.bool)), text


def loss_by_hand(model: VideoLanguageModel, folders: PartFolders, weights: Sequence[Sequence[float]]) -> Tensor:
    """Mean loss of an answer token, from every conversation alone."""
    total, num_tokens = torch.zeros(()), torch.zeros(())
    for number, of_steps in enumerate(weights):
        for step, weight in enumerate(of_steps):
            answer = model.language_model(*by_hand(model, folders, number, step))
            total = total + weight * answer.nll.sum()
        num_tokens += answer.num_tokens.sum()
    return total / num_tokens


@every_model
@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (FinalSegmentLoss(), [[0.0, 0.0, 1.0]] * 4),
        (EverySegmentLoss(), [[1 / 3] * 3, [1 / 2, 1 / 2, 0], [0, 0, 1], [1 / 3] * 3]),
        (EverySegmentLoss("increasing"), [[1 / 6, 2 / 6, 3 / 6], [1 / 3, 2 / 3, 0], [0, 0, 1], [1 / 6, 2 / 6, 3 / 6]]),
    ],
    ids=["final", "uniform", "increasing"],
)
def test_loss_equals_that_of_the_videos_put_together_by_hand(
    folders: PartFolders,
    make: Callable[..., VideoLanguageModel],
    schedule: LossSchedule,
    weights: list[list[float]],
) -> None:
    model = make(folders, loss_schedule=schedule)
    loss = model(batch_about_all(folders)).loss
    torch.testing.assert_close(loss, loss_by_hand(model, folders, weights), rtol=0, atol=1e-5)


@every_model
def test_answers_and_option_scores_equal_those_of_the_videos_put_together_by_hand(
    folders: PartFolders, make: Callable[..., VideoLanguageModel]
) -> None:
    model = make(folders)
    batch = batch_about_all(folders)
    alone = [by_hand(model, folders, number, 2) for number in range(len(ABOUT))]
    answers = [model.language_model.generate(*each, 4)[0] for each in alone]
    assert model.generate(batch, 4) == answers
    options = ["red", "green circle"]
    scores = torch.stack(model.score_options(batch, [options] * len(ABOUT)))
    expected = torch.stack([model.language_model.score_options(*each, [options])[0] for each in alone])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


@every_model
def test_order_of_the_videos_matters(folders: PartFolders, make: Callable[..., VideoLanguageModel]) -> None:
    model, batch = make(folders), batch_about_all(folders)
    swapped = batch.video_index.clone()
    swapped[0, :2] = swapped[0, :2].flip(0)
    plain, other = model(batch).loss, model(batch._replace(video_index=swapped)).loss
    assert not torch.allclose(plain, other, atol=1e-4)


@every_model
def test_every_trainable_part_gets_a_gradient(folders: PartFolders, make: Callable[..., VideoLanguageModel]) -> None:
    model = make(folders, loss_schedule=EverySegmentLoss())
    model(batch_about_all(folders)).loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in trained.values())
    assert all(bool(p.grad.any()) for reader in model.readers.values() for p in list(reader.parameters())[-1:])


def with_later_turn(batch: Batch) -> Batch:
    """The same conversations with another turn, about the other video or about both."""
    ids, labels, index = [], [], []
    for row, length in enumerate(batch.text_mask.sum(dim=1)):
        later = [0, 1] if row == 0 else [0]
        turn = torch.tensor([5] + [VIDEO_PLACEHOLDER] * len(later) + [6])
        ids.append(torch.cat([batch.input_ids[row, :length], turn]))
        unscored = torch.full_like(turn[:-1], IGNORED_LABEL)
        labels.append(torch.cat([batch.labels[row, :length], unscored, turn[-1:]]))
        about = batch.video_index[row]
        index.append(torch.cat([about[about != TEXT_ONLY], torch.tensor(later)]))
    return batch._replace(
        input_ids=pad_sequence(ids, batch_first=True),
        text_mask=pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True),
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL),
        video_index=pad_sequence(index, batch_first=True, padding_value=TEXT_ONLY),
    )


@every_model
def test_the_first_answer_does_not_depend_on_media_of_later_turns(
    folders: PartFolders, make: Callable[..., VideoLanguageModel]
) -> None:
    model, batch = make(folders), batch_about_all(folders)
    later = with_later_turn(batch)
    assert model(later).loss.isfinite()
    assert model.generate(later, 4) == model.generate(batch, 4)
    options = [["red", "green circle"]] * len(ABOUT)
    scores, expected = (torch.stack(model.score_options(each, options)) for each in (later, batch))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
