"""Questions of a benchmark are answered as the model itself answers them, with one pass over the media."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.bridges.readouts.retrieved import RetrievedReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from datamodules.benchmarks.item import BenchmarkItem, MediaPart
from membridge.answering_model import with_answers
from membridge.asking import AskedQuestion, ask_about, open_timed
from membridge.conversation import Conversation
from membridge.evaluation.item_answers import AskingSettings, ask_items, read_parts
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_bridge, make_model, open_gate
from tests.membridge.evaluation.made_benchmark import (
    OPTIONS,
    MadeBenchmark,
    made_items,
    write_clips,
    write_frame_folder,
)

SETTINGS = AskingSettings(max_new_tokens=4, at_once=2)


@pytest.fixture(
    scope="module", params=[{}, {"bridge": partial(make_bridge, readout=RetrievedReadout)}], ids=["", "asks"]
)
def model(request: pytest.FixtureRequest, folders: PartFolders) -> VideoLanguageModel:
    built = make_model(folders, **request.param)
    assert isinstance(built.bridge, RecurrentMemoryBridge)
    open_gate(built.bridge)
    built.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, num_frames=5), 4)
    return built


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_clips(folder, 3)
    return folder


@pytest.mark.parametrize("chosen_by", ["letter", "text"])
def test_answers_and_likelihoods_are_those_of_asking_each_prompt(
    model: VideoLanguageModel, videos: Path, chosen_by: str
) -> None:
    benchmark = MadeBenchmark(made_items(1), chosen_by=chosen_by)
    read = read_parts(model, benchmark.items[0].media, videos)
    found = ask_items(model, benchmark, benchmark.items, read, SETTINGS)
    medium = open_timed(model, videos / "clip0.mp4").medium
    for item, answer in zip(benchmark.items, found, strict=True):
        prompt = benchmark.prompt(item, [])
        assert answer.text == with_answers(model).answer(videos / "clip0.mp4", prompt.text, max_new_tokens=4)
        [scored] = ask_about(model, medium, [AskedQuestion(prompt.text, prompt.choices)], None)  # type: ignore[arg-type]
        torch.testing.assert_close(torch.tensor(answer.likelihoods), torch.tensor(scored.scores), rtol=1e-5, atol=1e-5)
        assert (answer.prompt_tokens, answer.visual_tokens) == (scored.prompt_tokens, scored.visual_tokens)
        if chosen_by == "text":  # the tiny tokenizer knows no letters, so these are equally likely up to rounding
            assert prompt.choices[answer.chosen or 0] == scored.text


def test_a_prompt_with_letters_lists_every_option_and_one_by_text_lists_none() -> None:
    [item, *_] = made_items(1)
    by_letter = MadeBenchmark([item]).prompt(item, [])
    assert "\nA. red\nB. blue\nC. circle\nD. none\n" in by_letter.text
    assert by_letter.choices == ("A", "B", "C", "D")
    by_text = MadeBenchmark([item], chosen_by="text").prompt(item, [])
    assert (by_text.text, by_text.choices) == (item.question, OPTIONS)


def test_the_encoder_sees_a_video_once_for_all_questions_and_options(model: VideoLanguageModel, videos: Path) -> None:
    shown: list[Tensor] = []
    benchmark = MadeBenchmark(made_items(1, per_video=7))
    hook = model.encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    try:
        read = read_parts(model, benchmark.items[0].media, videos)
        found = ask_items(model, benchmark, benchmark.items, read, SETTINGS)
    finally:
        hook.remove()
    assert len(shown) == 1
    assert len(shown[0]) == 5 == found[0].frames
    assert sum(answer.read_seconds for answer in found) == pytest.approx(read.seconds)


def test_several_media_are_shown_as_in_a_conversation(model: VideoLanguageModel, videos: Path) -> None:
    media = tuple(MediaPart(f"clip{number}", 500, 3000) for number in range(3))
    item = made_items(1)[0]._replace(media=media, options=())
    read = read_parts(model, media, videos)
    [found] = ask_items(model, MadeBenchmark([item]), [item], read, SETTINGS)
    conversation = Conversation(model)
    for part in media:
        conversation.load(videos / f"{part.path}.mp4", start_ms=500, end_ms=3000)
    reply = conversation.ask(item.question)
    assert (found.text, found.visual_tokens, found.prompt_tokens, found.frames) == (
        reply.text,
        reply.visual_tokens,
        reply.prompt_tokens,
        15,
    )


def test_a_folder_of_frames_is_the_video_of_these_frames(model: VideoLanguageModel, tmp_path: Path) -> None:
    write_frame_folder(tmp_path / "frames", 9)
    [whole] = read_parts(model, [MediaPart("frames", frames_per_second=2)], tmp_path).media
    assert whole.frame_ms == [0, 1000, 2000, 3000, 4000]  # 5 of 4.5 s: at 0.45, 1.35, 2.25, 3.15, 4.05
    [part] = read_parts(model, [MediaPart("frames", 1000, 3000, frames_per_second=2)], tmp_path).media
    assert part.frame_ms == [0, 500, 1000, 1500]
    assert torch.equal(part.frames[0], whole.frames[1])
    assert torch.equal(part.frames[2], whole.frames[2])


def test_a_question_that_is_too_long_has_a_reason_and_those_beside_it_an_answer(
    model: VideoLanguageModel, videos: Path
) -> None:
    items = [made_items(1)[0], made_items(1)[1]._replace(question="red " * 400), made_items(1)[2]]
    read = read_parts(model, items[0].media, videos)
    found = ask_items(model, MadeBenchmark(items), items, read, AskingSettings(4, at_once=3))
    assert "max_position_embeddings" in found[1].error
    alone = ask_items(model, MadeBenchmark(items), items[2:], read, SETTINGS)
    assert (found[0].error, found[2].text) == ("", alone[0].text)


def test_an_open_question_beside_one_with_options_has_no_likelihoods(model: VideoLanguageModel, videos: Path) -> None:
    items = [made_items(1)[0], made_items(1)[1]._replace(options=())]
    read = read_parts(model, items[0].media, videos)
    closed, free = ask_items(model, MadeBenchmark(items), items, read, SETTINGS)
    assert (len(closed.likelihoods), free.likelihoods, free.chosen) == (4, (), None)


def test_without_generation_there_are_likelihoods_alone(model: VideoLanguageModel, videos: Path) -> None:
    items: list[BenchmarkItem] = made_items(1)
    read = read_parts(model, items[0].media, videos)
    with_text = ask_items(model, MadeBenchmark(items), items, read, SETTINGS)
    without = ask_items(model, MadeBenchmark(items), items, read, AskingSettings(0, at_once=2))
    assert [each.likelihoods for each in without] == [each.likelihoods for each in with_text]
    assert [(each.text, each.new_tokens) for each in without] == [("", 0)] * 3
