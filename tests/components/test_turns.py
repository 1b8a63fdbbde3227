"""Every turn of a conversation is answered and scored after the reference answers of the turns before it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from components.interfaces import IGNORED_LABEL, TEXT_ONLY, TextInputs
from components.language.text_limits import TextLimitError
from components.model import VideoLanguageModel, text_of
from components.turns import answer_turns, evaluate_turns, rows_of_turns
from datamodules.batch import Batch, EncodedConversation, Sample, collate, empty_text_sample
from datamodules.conversations import build_turns
from datamodules.shards.schema import VIDEO_MARK, Turn
from tests.components.test_model_media import MODELS, batch_about_all, one_reader, with_later_turn
from tests.fixtures_models import PartFolders, make_frames, make_sample, make_two_reader_model

Dialogue = list[tuple[str, str]]

LONG: Dialogue = [("which colour ?", "red"), ("and then ?", "blue square"), ("how many ?", "one two three")]
SHORT: Dialogue = [("which shape ?", "circle"), ("which colour ?", "green")]
DIALOGUES: dict[str, list[Dialogue]] = {"long": [LONG, SHORT[:1]], "words": [LONG[:2]], "short": [SHORT]}
OPTIONS = ("red", "green circle")


def make_samples(folders: PartFolders) -> list[Sample]:
    """A video with conversations of three turns and of one, text of two turns, a video of two turns."""
    frames = {"long": make_frames(5, seed=1), "words": None, "short": make_frames(7, seed=2)}
    return [make_sample(folders, key, frames[key], dialogues) for key, dialogues in DIALOGUES.items()]


def each_turn_alone(folders: PartFolders, model: VideoLanguageModel) -> list[tuple[Batch, TextInputs]]:
    """A batch of the sample and the prompt of one turn, for every turn: written by the code that users ask with."""
    found = []
    for sample in make_samples(folders):
        for dialogue in DIALOGUES[sample.key]:
            turns: list[tuple[str, str]] = []
            for number, (question, answer) in enumerate(dialogue):
                mark = f"{VIDEO_MARK}\n" if sample.media and number == 0 else ""
                turns.append(("user", mark + question))
                found.append((collate([sample]), model.language_model.prompts([turns])))
                turns.append(("assistant", answer))
    return found


@pytest.mark.parametrize("make", [one_reader, make_two_reader_model])
def test_every_turn_is_answered_and_scored_like_the_conversation_cut_before_its_answer(
    folders: PartFolders, make: Callable[..., VideoLanguageModel]
) -> None:
    model, batch = make(folders), collate(make_samples(folders))
    alone = [(model.visual_tokens(single), text) for single, text in each_turn_alone(folders, model)]
    answers = model.answer_turns(batch, 4)
    assert answers == [model.language_model.generate(visual, text, 4)[0] for visual, text in alone]
    assert len(set(answers)) > 2
    found = model.evaluate_turns(batch, 4, [OPTIONS] * len(alone))
    assert [each.text for each in found] == answers
    scores = [model.language_model.score_options(visual, text, [OPTIONS])[0] for visual, text in alone]
    torch.testing.assert_close(torch.tensor([each.option_scores for each in found]), torch.stack(scores))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_losses_of_the_turns_add_up_to_that_of_their_conversation(
    folders: PartFolders, make: Callable[..., VideoLanguageModel]
) -> None:
    model, batch = make(folders), collate(make_samples(folders))
    whole = model.language_model(model.visual_tokens(batch), text_of(batch))
    rows = rows_of_turns(text_of(batch))
    found = model.evaluate_turns(batch, 2, [()] * len(rows.conversation))
    nll = torch.tensor([each.nll for each in found])
    torch.testing.assert_close(torch.zeros_like(whole.nll).index_add(0, rows.conversation, nll), whole.nll.detach())
    counts = torch.tensor([each.num_tokens for each in found])
    assert torch.equal(torch.zeros_like(whole.num_tokens).index_add(0, rows.conversation, counts), whole.num_tokens)


def test_a_row_labels_one_answer_and_has_a_place_in_the_order_of_the_conversations(folders: PartFolders) -> None:
    text = text_of(collate(make_samples(folders)))
    rows = rows_of_turns(text)
    assert rows.conversation.tolist() == [0, 0, 0, 1, 2, 2, 3, 3]
    labelled = rows.text.labels != IGNORED_LABEL
    together = torch.zeros_like(text.labels).index_add(0, rows.conversation, labelled.long())
    assert torch.equal(together, (text.labels != IGNORED_LABEL).long())
    first = labelled.long().argmax(dim=1).tolist()
    assert first[:3] == sorted(first[:3])


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_first_answer_does_not_depend_on_media_of_later_turns(
    folders: PartFolders, make: Callable[..., VideoLanguageModel]
) -> None:
    model, batch = make(folders), batch_about_all(folders)
    later = with_later_turn(batch)
    found, expected = (
        model.evaluate_turns(each, 4, [OPTIONS] * len(rows_of_turns(text_of(each)).conversation))
        for each in (later, batch)
    )
    assert len(found) == 2 * len(expected)
    for of_first, alone in zip(found[::2], expected, strict=True):
        assert of_first.text == alone.text
        assert of_first.option_scores == pytest.approx(alone.option_scores, abs=1e-5)
        assert of_first.nll == pytest.approx(alone.nll, abs=1e-4)


def test_later_answer_depends_on_the_medium_that_its_turn_shows(folders: PartFolders) -> None:
    model, batch = one_reader(folders), with_later_turn(batch_about_all(folders))
    swapped = batch.video_index.clone()
    swapped[2] = torch.where(swapped[2] == 0, 1, swapped[2])  # a text, and then a question about a video
    first, second = (
        model.evaluate_turns(batch._replace(video_index=index), 4, [OPTIONS] * 8)[4:6]
        for index in (batch.video_index, swapped)
    )
    assert first[0].option_scores == pytest.approx(second[0].option_scores)
    assert first[1].option_scores != pytest.approx(second[1].option_scores, abs=1e-5)


def test_no_more_rows_than_conversations_are_computed_at_once(
    folders: PartFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = one_reader(folders), collate(make_samples(folders))
    expected = model.answer_turns(batch, 3)
    sizes = []
    generate = model.language_model.generate

    def record(visual: Any, text: TextInputs, limit: int) -> list[str]:
        sizes.append(len(text.input_ids))
        return generate(visual, text, limit)

    monkeypatch.setattr(model.language_model, "generate", record)
    assert model.answer_turns(batch, 3) == expected
    assert sizes == [4, 4]


def test_rank_with_fewer_turns_makes_the_calls_of_the_others_and_drops_their_results(
    folders: PartFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = one_reader(folders), collate(make_samples(folders))
    visual, text = model.visual_tokens(batch), text_of(batch)
    asked: list[int] = []

    def three_more(own: int) -> int:
        asked.append(own)
        return own + 3

    calls = {"generate": 0, "answer_and_score": 0}

    def counted(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        calls[name] += 1
        return call(*arguments)

    for name in calls:
        monkeypatch.setattr(model.language_model, name, partial(counted, name, getattr(model.language_model, name)))
    answers = answer_turns(model.language_model, visual, text, 3, three_more)
    assert answers == answer_turns(model.language_model, visual, text, 3, lambda own: own)
    options: Sequence[Sequence[str]] = [OPTIONS] * len(answers)
    found = evaluate_turns(model.language_model, visual, text, 3, options, three_more)
    assert [each.text for each in found] == answers
    assert asked == [2, 2]
    assert calls == {"generate": 5 + 2, "answer_and_score": 5}


def test_text_without_a_label_has_one_answer_and_no_reference(folders: PartFolders) -> None:
    model, batch = one_reader(folders), collate([empty_text_sample()])
    [found] = model.evaluate_turns(batch, 2, [()])
    assert (found.nll, found.num_tokens, found.option_scores) == (None, 0, ())


def test_unequal_numbers_of_turns_and_options_are_refused(folders: PartFolders) -> None:
    model, batch = one_reader(folders), collate(make_samples(folders))
    with pytest.raises(ValueError, match="has 8 turns, but options for 4"):
        model.evaluate_turns(batch, 2, [OPTIONS] * 4)


def test_turn_that_is_too_long_names_its_conversation(folders: PartFolders) -> None:
    model = one_reader(folders)
    tokenizer = model.language_model.tokenizer
    turns = [Turn("user", "red ?"), Turn("assistant", "red"), Turn("user", "red " * 600), Turn("assistant", "red")]
    encoded = build_turns(turns, tokenizer)
    [short] = make_sample(folders, "words", None, [LONG]).conversations
    long = EncodedConversation(encoded.input_ids, encoded.labels, short.question, ())
    batch = collate([Sample("words", (), (short, short, long))])
    assert model.language_model.limits.context_length is not None
    assert model.language_model.limits.context_length < 600
    assert (batch.video_index == TEXT_ONLY).all()
    for ask in (lambda: model.answer_turns(batch, 2), lambda: model.evaluate_turns(batch, 2, [()] * 8)):
        with pytest.raises(TextLimitError) as caught:
            ask()
        assert caught.value.conversation == 2
