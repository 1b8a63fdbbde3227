"""Conversations read each medium and token once, and answer what the whole conversation, read at once, answers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from components.bridges.readouts.retrieved import RetrievedReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.interfaces import IGNORED_LABEL, DecodingSettings, NewTokens, TextInputs, VisualTokens
from components.model import VideoLanguageModel
from datamodules.batch import Batch
from datamodules.media.sample_media import SampleMedia
from membridge.conversation import Conversation, joined
from membridge.opened_medium import OpenedMedium, read_medium
from tests.fixtures_models import PartFolders, make_bridge, make_frames, make_model, open_gate

LENGTH = 4
FORMS: dict[str, dict[str, Any]] = {
    "one reader": {},
    "a reader of questions": {"bridge": partial(make_bridge, readout=RetrievedReadout)},
    "words": {"visual_prompt": "look at<memory>then"},
}


@pytest.fixture(scope="module", params=FORMS.values(), ids=list(FORMS))
def model(request: pytest.FixtureRequest, folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders, **request.param)
    assert isinstance(built.bridge, RecurrentMemoryBridge)
    open_gate(built.bridge)
    return built


def medium(model: VideoLanguageModel, num_frames: int, seed: int) -> OpenedMedium:
    frames = make_frames(num_frames, seed=seed)
    return read_medium(model, f"v{seed}.mp4", SampleMedia(frames, 1000 * torch.arange(num_frames)))


def talk(model: VideoLanguageModel) -> Conversation:
    return Conversation(model, DecodingSettings(max_new_tokens=LENGTH))


def batch_of(media: Sequence[OpenedMedium], text: TextInputs) -> Batch:
    return Batch(
        frames=torch.cat([each.frames for each in media]),
        frame_counts=torch.tensor([each.num_frames for each in media]),
        frame_ms=torch.cat([torch.tensor(each.frame_ms) for each in media]),
        picture_sizes=torch.zeros(len(media), 2, dtype=torch.int64),
        questions=(),
        **text._asdict(),
    )


def answer_in_one_pass(
    model: VideoLanguageModel, media: Sequence[OpenedMedium], turns: Sequence[tuple[str, str]], answers: list[list[int]]
) -> list[int]:
    """Ids of the answer when the media are one batch and the whole conversation is one prompt.

    The answers so far are given as ids: a model without training writes tokens that are no text.
    """
    asked = model.language_model.prompts([turns[:1]])
    batch = batch_of(media, asked)
    ids = asked.input_ids
    for number, answer in enumerate(answers):
        further = model.language_model.next_prompts([turns[: 2 * number + 3]]).input_ids
        ids = torch.cat([ids, torch.tensor([answer], dtype=torch.int64), further], dim=1)
    text = asked._replace(
        input_ids=ids, text_mask=torch.ones_like(ids).bool(), labels=torch.full_like(ids, IGNORED_LABEL)
    )
    state = model.language_model.prefill(model.visual_tokens(batch), text)
    return model.language_model.decode(state, DecodingSettings(max_new_tokens=LENGTH)).token_ids[0]


def test_every_turn_answers_as_the_whole_conversation_read_at_once(model: VideoLanguageModel) -> None:
    conversation = talk(model)
    media = [medium(model, 5, 1), medium(model, 3, 2)]
    for each in media:
        conversation.add(each)
    answers: list[list[int]] = []
    for number, question in enumerate(("<video> which <video> ?", "red ?", "which shape ?")):
        seen: list[NewTokens] = []
        reply = conversation.ask(question, seen.append)
        assert (reply.visual_tokens > 0) == (number == 0)
        ids = [each.ids[0] for each in seen if each.ids[0] is not None]
        assert ids[: reply.new_tokens] == answer_in_one_pass(model, media, conversation.turns[:-1], answers)
        answers.append(ids[: reply.new_tokens])


def test_media_without_marks_are_shown_in_front_of_the_question(model: VideoLanguageModel) -> None:
    marked, plain = talk(model), talk(model)
    for conversation in (marked, plain):
        conversation.add(medium(model, 4, 3))
    assert marked.ask("<video>\nwhich ?") == plain.ask("which ?")._replace(
        first_token_seconds=pytest.approx(0, abs=60), seconds=pytest.approx(0, abs=60)
    )
    assert marked.turns == plain.turns


def test_a_medium_may_come_in_a_later_turn(model: VideoLanguageModel) -> None:
    conversation = talk(model)
    conversation.add(medium(model, 4, 4))
    conversation.ask("which ?")
    conversation.add(medium(model, 2, 5))
    reply = conversation.ask("and which ?")
    assert reply.visual_tokens > 0
    assert conversation.turns[2] == ("user", "<video>\nand which ?")
    with pytest.raises(ValueError, match="has 1 <video> marks, but 0 videos"):
        conversation.ask("<video> why ?")


def test_a_question_about_no_medium_is_answered(model: VideoLanguageModel) -> None:
    assert talk(model).ask("say hello").visual_tokens == 0


def test_tokens_appear_as_they_come_and_join_to_the_answer(model: VideoLanguageModel) -> None:
    conversation = talk(model)
    conversation.add(medium(model, 4, 3))
    seen: list[NewTokens] = []
    reply = conversation.ask("which ?", seen.append)
    assert "".join(each.texts[0] for each in seen).strip() == reply.text
    assert 0 < reply.first_token_seconds <= reply.seconds


def test_an_interrupted_answer_leaves_the_conversation_as_it_was(model: VideoLanguageModel) -> None:
    conversation, undisturbed = talk(model), talk(model)
    for each in (conversation, undisturbed):
        each.add(medium(model, 4, 3))
        each.ask("which ?")

    def interrupt(tokens: NewTokens) -> None:
        raise KeyboardInterrupt

    before = list(conversation.turns)
    with pytest.raises(KeyboardInterrupt):
        conversation.ask("why ?", interrupt)
    assert conversation.turns == before
    assert conversation.ask("how many ?").text == undisturbed.ask("how many ?").text


def test_after_clear_the_media_are_shown_again(model: VideoLanguageModel) -> None:
    conversation = talk(model)
    conversation.add(medium(model, 4, 3))
    first = conversation.ask("which ?")
    conversation.clear()
    assert conversation.turns == []
    again = conversation.ask("which ?")
    assert (again.text, again.visual_tokens) == (first.text, first.visual_tokens)


def test_a_resumed_conversation_answers_as_the_same_turns_read_at_once(model: VideoLanguageModel) -> None:
    media = [medium(model, 4, 3), medium(model, 2, 5)]
    conversation = talk(model)
    for each in media:
        conversation.add(each)
    said = [("system", "be short"), ("user", "<video>\nred <video> ?"), ("assistant", "a red circle")]
    conversation.resume(said)
    seen: list[NewTokens] = []
    reply = conversation.ask("and which shape ?", seen.append)
    ids = [each.ids[0] for each in seen if each.ids[0] is not None][: reply.new_tokens]
    text = model.language_model.prompts([[*said, ("user", "and which shape ?")]])
    batch = batch_of(media, text)
    whole = model.language_model.prefill(model.visual_tokens(batch), text)
    assert ids == model.language_model.decode(whole, DecodingSettings(max_new_tokens=LENGTH)).token_ids[0]
    assert reply.visual_tokens > 0
    assert conversation.turns[:3] == said
    assert conversation.ask("why ?").visual_tokens == 0  # nothing is read twice


def test_a_resumed_conversation_shows_the_rest_of_its_media_in_the_next_question(model: VideoLanguageModel) -> None:
    conversation = talk(model)
    for seed in (3, 5):
        conversation.add(medium(model, 2, seed))
    said = [("user", "<video>\nwhich ?"), ("assistant", "typed <video> is plain text here")]
    conversation.resume(said)
    conversation.ask("and this ?")
    assert conversation.turns[2] == ("user", "<video>\nand this ?")
    with pytest.raises(ValueError, match="have 3 <video> marks, but 2 videos"):
        conversation.resume([("user", "<video> <video> <video> ?"), ("assistant", "yes")])


def test_after_clear_with_media_nothing_is_shown(model: VideoLanguageModel) -> None:
    conversation, new = talk(model), talk(model)
    conversation.add(medium(model, 4, 3))
    conversation.ask("which ?")
    conversation.clear(with_media=True)
    assert conversation.media == []
    reply = conversation.ask("say hello")
    assert (reply.visual_tokens, reply.text) == (0, new.ask("say hello").text)


def test_after_undo_the_question_and_the_media_that_it_showed_come_again(model: VideoLanguageModel) -> None:
    conversation = talk(model)
    conversation.add(medium(model, 4, 3))
    first = conversation.ask("which ?")
    assert conversation.undo() == "<video>\nwhich ?"
    assert conversation.turns == []
    again = conversation.ask("which ?")
    assert (again.text, again.visual_tokens) == (first.text, first.visual_tokens)
    conversation.add(medium(model, 2, 5))
    conversation.ask("and which ?")
    conversation.undo()
    assert conversation.turns == [("user", "<video>\nwhich ?"), ("assistant", first.text)]
    conversation.ask("and which ?")
    assert conversation.turns[2] == ("user", "<video>\nand which ?")


def test_without_a_question_there_is_nothing_to_undo(model: VideoLanguageModel) -> None:
    with pytest.raises(ValueError, match="there is no question to undo"):
        Conversation(model, system="be brief").undo()


def test_attention_is_that_of_the_question_that_showed_the_medium(model: VideoLanguageModel) -> None:
    conversation = talk(model)
    for seed in (1, 2):
        conversation.add(medium(model, 5, seed))
    assert conversation.segment_attention(0) is None
    conversation.ask("which ?")
    text = model.language_model.prompts([conversation.turns[:1]])
    for number, shown in enumerate(conversation.media):
        assert conversation.segment_attention(number) == shown.segment_attention(model, text)
        assert conversation.segment_attention(number) is not None
    before = conversation.segment_attention(1)
    conversation.ask("why ?")
    assert conversation.segment_attention(1) == before
    conversation.clear()
    assert conversation.segment_attention(1) is None


def test_scenes_are_the_segments_with_their_times(model: VideoLanguageModel) -> None:
    opened = medium(model, 5, 1)
    assert [(scene.start_ms, scene.end_ms, scene.num_frames) for scene in opened.scenes] == [
        (0, 1000, 2),
        (2000, 3000, 2),
        (4000, 4000, 1),
    ]
    assert len(opened.similarity) == 4
    text = model.language_model.prompts(["which ?"])
    attention = opened.segment_attention(model, text)
    assert attention is not None
    assert (len(attention), sum(attention)) == (3, pytest.approx(1))


def test_a_model_in_training_mode_is_refused(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        Conversation(make_model(folders).train())


def test_rows_of_media_of_unequal_length_are_padded() -> None:
    def row(length: int) -> VisualTokens:
        tokens: Tensor = torch.full((1, length, 2), float(length))
        return VisualTokens(tokens, torch.ones(1, length, dtype=torch.bool))

    rows = joined([row(3), row(1)])
    assert rows.mask.tolist() == [[True, True, True], [True, False, False]]
    assert rows.tokens[1, 0].tolist() == [1, 1]
