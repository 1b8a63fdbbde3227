"""Questions about a medium are answered as by the model itself, with one pass over the medium."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.bridges.readouts.retrieved import RetrievedReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.interfaces import DecodingSettings
from components.language.text_limits import TextLimitError
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from datamodules.media.sample_media import SampleMedia
from membridge.answering_model import with_answers
from membridge.asking import AskedQuestion, ask_about, ask_about_all, open_timed
from membridge.conversation import Conversation
from membridge.opened_medium import OpenedMedium, read_medium
from membridge.video_batches import video_batch
from tests.fixtures_data import make_clip, natural_frames
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_bridge, make_frames, make_model, open_gate

SETTINGS = DecodingSettings(max_new_tokens=4)
QUESTIONS = ["which colour ?", "how many yellow shape in the video ?", "which colour ?", "yes or no ?"]
OPTIONS = ("red", "blue square", "none of the image")


@pytest.fixture(
    scope="module", params=[{}, {"bridge": partial(make_bridge, readout=RetrievedReadout)}], ids=["", "asks"]
)
def model(request: pytest.FixtureRequest, folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders, **request.param)
    assert isinstance(built.bridge, RecurrentMemoryBridge)
    open_gate(built.bridge)
    built.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=5), 4)
    return built


def media_of(seed: int, num_frames: int = 5) -> SampleMedia:
    return SampleMedia(make_frames(num_frames, seed=seed), 1000 * torch.arange(num_frames))


def opened(model: VideoLanguageModel, seed: int) -> OpenedMedium:
    return read_medium(model, f"v{seed}", media_of(seed))


def asked(texts: Sequence[str], options: tuple[str, ...] = ()) -> list[AskedQuestion]:
    return [AskedQuestion(text, options) for text in texts]


def test_answers_and_their_order_are_those_of_the_model(model: VideoLanguageModel) -> None:
    batch = video_batch(model, media_of(1), model.language_model.prompts(QUESTIONS))
    found = ask_about(model, opened(model, 1), asked(QUESTIONS), SETTINGS)
    assert [answer.text for answer in found] == model.generate(batch, 4)
    scores = model.score_options(batch, [OPTIONS] * len(QUESTIONS))
    mixed = [AskedQuestion(text, OPTIONS if number % 2 else ()) for number, text in enumerate(QUESTIONS)]
    given = ask_about(model, opened(model, 1), mixed, SETTINGS)
    for number, answer in enumerate(given):
        if number % 2:
            assert answer.text == OPTIONS[int(scores[number].argmax())]
            torch.testing.assert_close(torch.tensor(answer.scores), scores[number], rtol=1e-5, atol=1e-5)
            assert answer.new_tokens == 0
        else:
            assert (answer.text, answer.scores) == (found[number].text, ())


def test_tokens_are_counted_as_the_language_model_reads_them(model: VideoLanguageModel) -> None:
    text = model.language_model.prompts(QUESTIONS)
    batch = video_batch(model, media_of(1), text)
    with torch.no_grad():
        visual = model.visual_tokens(batch)
        state = model.language_model.prefill(visual, text)
    found = ask_about(model, opened(model, 1), asked(QUESTIONS), SETTINGS)
    assert [answer.prompt_tokens for answer in found] == list(state.lengths)
    of_text = (text.text_mask.sum(dim=1) - 1).tolist()  # the placeholder is replaced
    assert [answer.visual_tokens for answer in found] == [a - b for a, b in zip(state.lengths, of_text, strict=True)]
    assert all(0 <= answer.new_tokens <= 4 and answer.seconds > 0 for answer in found)


def test_a_question_about_several_media_is_that_of_a_new_conversation(model: VideoLanguageModel) -> None:
    media = [opened(model, seed) for seed in (1, 2, 3)]
    conversation = Conversation(model, SETTINGS)
    for medium in media:
        conversation.add(medium)
    reply = conversation.ask(QUESTIONS[0])
    for _ in range(2):  # nothing of the first question is remembered
        found = ask_about_all(model, media, QUESTIONS[0], SETTINGS)
        assert (found.text, found.visual_tokens, found.prompt_tokens) == (
            reply.text,
            reply.visual_tokens,
            reply.prompt_tokens,
        )


def test_a_file_is_read_once_for_all_its_questions_and_its_times_are_those_of_its_frames(
    model: VideoLanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "video.mp4").write_bytes(make_clip(8, width=96, height=84, fps=2, frames=natural_frames(8, 84, 96)))
    shown: list[Tensor] = []
    hook = model.encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    try:
        medium = open_timed(model, tmp_path / "video.mp4", 1000, 3000)
        found = ask_about(model, medium.medium, asked(QUESTIONS), SETTINGS)
    finally:
        hook.remove()
    assert len(shown) == 1
    facts = medium.facts()
    assert (facts["start"], facts["end"], facts["frames"]) == (1.0, 2.5, 4)
    answering = with_answers(model)
    assert [each.text for each in found] == answering.answer(
        tmp_path / "video.mp4", QUESTIONS, start_ms=1000, end_ms=3000
    )


def test_sampled_answers_depend_on_the_seed_and_not_on_the_questions_beside(model: VideoLanguageModel) -> None:
    medium = opened(model, 1)
    settings = DecodingSettings(8, temperature=5.0, seed=3)
    together = ask_about(model, medium, asked(QUESTIONS), settings)
    alone = [ask_about(model, medium, asked([text]), settings)[0] for text in QUESTIONS]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    other = ask_about(model, medium, asked(QUESTIONS), DecodingSettings(8, temperature=5.0, seed=4))
    assert [answer.text for answer in together] != [answer.text for answer in other]


def test_a_question_longer_than_the_context_is_refused(model: VideoLanguageModel) -> None:
    with pytest.raises(TextLimitError, match="max_position_embeddings"):
        ask_about(model, opened(model, 1), asked(["which colour ?", "red " * 400]), SETTINGS)
