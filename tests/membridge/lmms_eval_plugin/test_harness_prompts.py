"""What lmms-eval's tasks give becomes conversations with a mark for each medium."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.errors import SampleError
from membridge.lmms_eval_plugin.given_media import GivenMedium, given_medium
from membridge.lmms_eval_plugin.harness_prompts import (
    HarnessPrompt,
    by_media,
    decoding_of,
    prompt_of_context,
    prompt_of_messages,
)

RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


def shown(prompt: HarnessPrompt) -> tuple[str, list[Any]]:
    """Text of the last turn, and media as path or number of pictures."""
    return prompt.turns[-1][1], [medium.path or len(medium.pictures) for medium in prompt.media]


@pytest.mark.parametrize(
    ("context", "visuals", "expected"),
    [
        ("what ?", ["a.mp4"], ("<video>\nwhat ?", ["a.mp4"])),
        ("what ?", "a.mp4", ("<video>\nwhat ?", ["a.mp4"])),
        ("what ?", Path("a.mp4"), ("<video>\nwhat ?", ["a.mp4"])),
        ("what ?", ["a.mp4", "b.png"], ("<video>\n<video>\nwhat ?", ["a.mp4", "b.png"])),
        ("what ?", [RED], ("<video>\nwhat ?", [1])),
        ("what ?", RED, ("<video>\nwhat ?", [1])),
        ("what ?", [RED, BLUE, RED], ("<video>\nwhat ?", [3])),
        ("what ?", [[RED, BLUE]], ("<video>\nwhat ?", [2])),
        ("what ?", [RED, "a.mp4", BLUE, RED], ("<video>\n<video>\n<video>\nwhat ?", [1, "a.mp4", 2])),
        ("<image> or <image> ?", [RED, BLUE], ("<video> or <video> ?", [1, 1])),
        ("<image> ?", [RED, BLUE], ("<video>\n<image> ?", [2])),
        ("<image> ?", ["a.mp4"], ("<video> ?", ["a.mp4"])),
        ("what ?", [], ("what ?", [])),
        ("what ?", None, ("what ?", [])),
        ("what <video> ?", ["a.mp4"], ("<video>\nwhat  ?", ["a.mp4"])),
    ],
)
def test_a_context_shows_its_media_in_front_or_at_its_marks(context: str, visuals: Any, expected: Any) -> None:
    assert shown(prompt_of_context(context, visuals)) == expected


def test_the_same_prompt_comes_of_messages_and_of_a_context() -> None:
    for visuals in (["a.mp4"], [RED], [RED, BLUE], ["a.mp4", "b.mp4"], []):
        content: list[dict[str, Any]] = [
            {"type": "video" if isinstance(each, str) else "image", "url": each} for each in visuals
        ]
        text = {"type": "text", "text": "what ?"}
        assert prompt_of_messages([{"role": "user", "content": [*content, text]}]) == prompt_of_context(
            "what ?", visuals
        )


def test_messages_keep_their_roles_and_show_media_where_they_stand() -> None:
    prompt = prompt_of_messages(
        [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "before"}, {"type": "video", "url": "a.mp4"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a <video>"}]},
            {"role": "user", "content": [{"type": "audio", "url": "b.webm"}, {"type": "text", "text": "and ?"}]},
        ]
    )
    assert prompt.turns == (
        ("system", "be short"),
        ("user", "before\n<video>\n"),
        ("assistant", "a <video>"),  # of an answer it is plain text
        ("user", "<video>\nand ?"),
    )
    assert [medium.path for medium in prompt.media] == ["a.mp4", "b.webm"]


@pytest.mark.parametrize(
    ("visual", "expected"),
    [
        ({"type": "video", "url": "a.mp4", "video_start": 1.5, "video_end": 3}, GivenMedium("a.mp4", 1500, 3000)),
        ({"type": "video", "url": "a.mp4", "start_time": 0.0, "end_time": None}, GivenMedium("a.mp4", 0)),
        ({"type": "video", "url": {"path": "a.mp4", "video_end": 2}}, GivenMedium("a.mp4", None, 2000)),
        ({"type": "image", "url": RED}, GivenMedium(pictures=(RED,))),
        ({"video": "a.mp4"}, GivenMedium("a.mp4")),
    ],
)
def test_a_part_of_a_video_is_named_in_seconds(visual: Any, expected: GivenMedium) -> None:
    assert given_medium(visual) == expected


@pytest.mark.parametrize("visual", [{"array": [0.0], "sampling_rate": 16000}, 3, [], ["a.mp4"], [RED, 3], None])
def test_other_media_are_refused(visual: Any) -> None:
    with pytest.raises(SampleError, match="reads paths of videos and pictures"):
        given_medium(visual)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}], "sound"),
        ([{"role": "assistant", "content": [{"type": "video", "url": "a.mp4"}]}], "only those of the user"),
    ],
)
def test_messages_that_the_model_cannot_read_are_refused(messages: Any, problem: str) -> None:
    with pytest.raises(SampleError, match=problem):
        prompt_of_messages(messages)


def test_decoding_is_greedy_unless_a_task_asks_for_sampling() -> None:
    for given in ({}, {"temperature": 0}, {"temperature": 0.7, "do_sample": False}, {"top_p": None, "num_beams": 3}):
        settings = decoding_of(given, 7)
        assert (settings.temperature, settings.max_new_tokens) == (0, 7)
    settings = decoding_of({"max_new_tokens": 3, "temperature": 0.7, "top_p": 0.9, "top_k": None}, 7)
    assert (settings.max_new_tokens, settings.temperature, settings.top_p, settings.top_k) == (3, 0.7, 0.9, 0)


def test_prompts_about_the_same_media_are_one_group() -> None:
    a, b, red, blue, red_too = (prompt_of_context("?", visuals) for visuals in (["a"], ["b"], [RED], [BLUE], [RED]))
    part = a._replace(media=(GivenMedium("a", 0, 1000),))
    taken: list[int] = []

    def made_one_by_one() -> Any:
        for index, prompt in enumerate([a, red, red_too, b, a, blue, part, b]):
            taken.append(index)
            yield index, prompt

    groups = by_media(made_one_by_one())
    assert [index for index, _ in next(groups)] == [1, 2]
    assert taken[-1] == 5  # pictures do not wait in memory for the last prompt
    assert [[index for index, _ in group] for group in groups] == [[5], [0, 4], [3, 7], [6]]
