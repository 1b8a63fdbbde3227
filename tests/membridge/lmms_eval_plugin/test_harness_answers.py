"""Prompts of lmms-eval are answered as the model itself answers them, with one pass over the media."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from components.interfaces import DecodingSettings
from components.language.text_limits import TextLimitError
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from membridge.answering_model import with_answers
from membridge.asking import AskedQuestion, ask_about, open_timed
from membridge.lmms_eval_plugin.harness_answers import HarnessAnswer, HarnessAnswers
from membridge.lmms_eval_plugin.harness_prompts import HarnessPrompt, prompt_of_context
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model, open_gate
from tests.membridge.evaluation.made_benchmark import OPTIONS, QUESTIONS, write_clips


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders)
    open_gate(built.bridge)  # type: ignore[arg-type]
    built.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=5), 4)
    return built


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    write_clips(folder, 2)
    return sorted(folder.iterdir())


def answers_of(model: VideoLanguageModel, at_once: int = 3, on_error: Any = "stop") -> tuple[HarnessAnswers, list[str]]:
    warnings: list[str] = []
    return HarnessAnswers(model, at_once, on_error, warnings.append), warnings


def asked(clip: Path, question: str, tokens: int = 6, **more: Any) -> HarnessPrompt:
    return prompt_of_context(question, [str(clip)])._replace(settings=DecodingSettings(tokens), **more)


def in_order(found: Any) -> list[HarnessAnswer]:
    return [answer for _, answer in sorted(found)]


@contextmanager
def videos_read(model: VideoLanguageModel) -> Iterator[list[object]]:
    """A list that grows with every video that the encoder sees."""
    read: list[object] = []
    hook = model.encoder.register_forward_pre_hook(lambda _, inputs: read.append(inputs))
    try:
        yield read
    finally:
        hook.remove()


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_generated_answers_are_those_of_the_model_and_each_video_is_read_once(
    model: VideoLanguageModel, clips: list[Path], at_once: int
) -> None:
    answers, _ = answers_of(model, at_once)
    asked_all = [(clip, question) for question in QUESTIONS for clip in clips]
    with videos_read(model) as read:
        found = in_order(answers.answer(enumerate(asked(*each) for each in asked_all)))
    assert len(read) == len(clips)
    itself = with_answers(model)
    expected = [itself.answer(clip, question, max_new_tokens=6) for clip, question in asked_all]
    assert [answer.text for answer in found] == expected
    assert len(set(expected)) > 2


def test_losses_are_those_of_the_options_and_each_video_is_read_once(
    model: VideoLanguageModel, clips: list[Path]
) -> None:
    answers, _ = answers_of(model)
    prompts = [
        asked(clip, question)._replace(choice=option) for option in OPTIONS for question in QUESTIONS for clip in clips
    ]
    with videos_read(model) as read:
        found = in_order(answers.answer(enumerate(prompts)))
    assert len(read) == len(clips)
    losses = torch.tensor([answer.loss for answer in found]).view(len(OPTIONS), len(QUESTIONS), len(clips))
    for number, clip in enumerate(clips):
        medium = open_timed(model, clip).medium
        questions = [AskedQuestion(question, OPTIONS) for question in QUESTIONS]
        for row, scored in enumerate(ask_about(model, medium, questions, DecodingSettings())):
            torch.testing.assert_close(losses[:, row, number], -torch.tensor(scored.scores), rtol=1e-5, atol=1e-5)


def test_a_choice_is_greedy_where_the_model_answers_it_and_ends_there(
    model: VideoLanguageModel, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = model.language_model.decode

    def is_greedy(choice: str, number_of_tokens: int) -> bool:
        def red(*given: Any) -> Any:
            return decode(*given)._replace(texts=["red"], token_ids=[[0] * number_of_tokens])

        with monkeypatch.context() as patch:
            patch.setattr(model.language_model, "decode", red)
            return answers_of(model)[0].answer_one(asked(clips[0], QUESTIONS[0], choice=choice)).is_greedy

    assert is_greedy("red", 1)
    assert not is_greedy("blue", 1)
    assert not is_greedy("red", 30)  # it goes on, such as with tokens that are no text


def test_an_answer_ends_before_the_texts_that_end_it(model: VideoLanguageModel, clips: list[Path]) -> None:
    for clip in clips:
        for question in QUESTIONS:
            text = with_answers(model).answer(clip, question, max_new_tokens=8)
            words = text.split()
            if len(set(words)) < 2:
                continue
            later = next(word for word in words if word != words[0])
            [cut] = in_order(answers_of(model)[0].answer([(0, asked(clip, question, 8, until=("\n\n", later)))]))
            assert cut.text == text.split(later)[0].rstrip()
            return
    pytest.fail("no answer has two words")


def test_settings_of_several_tasks_about_one_video_are_not_mixed(model: VideoLanguageModel, clips: list[Path]) -> None:
    prompts = [asked(clips[0], QUESTIONS[0], 2), asked(clips[0], QUESTIONS[1], 6), asked(clips[0], QUESTIONS[1], 2)]
    with videos_read(model) as read:
        found = in_order(answers_of(model)[0].answer(enumerate(prompts)))
    assert len(read) == 1
    assert [answer.new_tokens <= limit for answer, limit in zip(found, (2, 6, 2), strict=True)] == [True] * 3
    expected = [with_answers(model).answer(clips[0], QUESTIONS[1], max_new_tokens=limit) for limit in (6, 2)]
    assert [answer.text for answer in found[1:]] == expected


def test_sampling_depends_on_the_seed_alone(model: VideoLanguageModel, clips: list[Path]) -> None:
    warm = DecodingSettings(6, temperature=1.5)
    prompts = [asked(clips[0], QUESTIONS[0])._replace(settings=warm, seed=seed) for seed in (0, 1, 2, 3, 0)]
    together = in_order(answers_of(model, 8)[0].answer(enumerate(prompts)))
    alone = in_order(answers_of(model, 1)[0].answer(enumerate(prompts)))
    assert [each.text for each in together] == [each.text for each in alone]
    assert together[0].text == together[-1].text
    assert len({each.text for each in together}) > 1


def test_a_long_limit_reaches_to_the_end_of_the_context_for_each_prompt(
    model: VideoLanguageModel, clips: list[Path]
) -> None:
    context = model.language_model.limits.context_length  # type: ignore[union-attr]
    prompts = [asked(clips[0], question, 100_000) for question in ("red", "which colour is the red circle ?")]
    found = in_order(answers_of(model)[0].answer(enumerate(prompts)))
    assert all(answer.prompt_tokens + answer.new_tokens <= context for answer in found)
    assert found == [in_order(answers_of(model)[0].answer([(0, prompt)]))[0] for prompt in prompts]


def test_the_same_media_are_not_read_again_for_the_next_prompt(model: VideoLanguageModel, clips: list[Path]) -> None:
    answers, _ = answers_of(model)
    with videos_read(model) as read:
        for clip in (clips[0], clips[0], clips[1], clips[0]):
            answers.answer_one(asked(clip, QUESTIONS[0]))
    assert len(read) == 3


def test_a_prompt_without_media_is_answered(model: VideoLanguageModel) -> None:
    answers, _ = answers_of(model)
    plain = prompt_of_context("which colour ?", None)
    assert answers.answer_one(plain._replace(choice="red")).loss > 0
    assert answers.answer_one(plain._replace(settings=DecodingSettings(4))).prompt_tokens > 0


def test_a_missing_video_stops_or_gives_an_empty_answer_with_a_warning(
    model: VideoLanguageModel, clips: list[Path]
) -> None:
    prompts = [asked(clips[0].with_name("none.mp4"), QUESTIONS[0]), asked(clips[0], QUESTIONS[0])]
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        in_order(answers_of(model)[0].answer(enumerate(prompts)))
    answers, warnings = answers_of(model, on_error="empty")
    missing, there = in_order(answers.answer(enumerate(prompts)))
    assert missing == HarnessAnswer()
    assert there.text == with_answers(model).answer(clips[0], QUESTIONS[0], max_new_tokens=6)
    assert len(warnings) == 1
    assert "none.mp4" in warnings[0]
    with pytest.raises(FileNotFoundError):  # a choice by likelihood cannot be empty
        in_order(answers.answer([(0, prompts[0]._replace(choice="red"))]))


def test_a_prompt_that_is_too_long_leaves_those_beside_it_their_answers(
    model: VideoLanguageModel, clips: list[Path]
) -> None:
    prompts = [asked(clips[0], QUESTIONS[0]), asked(clips[0], "red " * 400), asked(clips[0], QUESTIONS[1])]
    with pytest.raises(TextLimitError, match="max_position_embeddings"):
        in_order(answers_of(model)[0].answer(enumerate(prompts)))
    answers, warnings = answers_of(model, on_error="empty")
    found = in_order(answers.answer(enumerate(prompts)))
    expected = [with_answers(model).answer(clips[0], question, max_new_tokens=6) for question in QUESTIONS[:2]]
    assert [answer.text for answer in found] == [expected[0], "", expected[1]]
    assert "max_position_embeddings" in warnings[0]


@pytest.mark.parametrize(("at_once", "on_error"), [(0, "stop"), (1, "skip")])
def test_wrong_options_are_refused(model: VideoLanguageModel, at_once: int, on_error: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        answers_of(model, at_once, on_error)
