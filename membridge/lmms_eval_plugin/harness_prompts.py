"""The prompts of lmms-eval's tasks, as conversations with marks for their media."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from components.interfaces import DecodingSettings
from datamodules.errors import SampleError
from membridge.conversation import MARK
from membridge.lmms_eval_plugin.given_media import GivenMedium, given_medium

PICTURE_MARK = "<image>"
"""Where some tasks show a picture in their text."""
Turn = tuple[str, str]


class HarnessPrompt(NamedTuple):
    """What a task asks."""

    turns: tuple[Turn, ...]  # role and text; ``<video>`` marks of the user's turns show the media, in their order
    media: tuple[GivenMedium, ...] = ()
    choice: str | None = None  # whose likelihood is asked for; None: an answer is generated
    settings: DecodingSettings = DecodingSettings()
    seed: int = 0  # of sampling, in place of that of the settings
    until: tuple[str, ...] = ()  # texts before which a generated answer is cut

    @property
    def media_key(self) -> tuple[Any, ...]:
        """Equal for prompts about the same media."""
        return tuple(medium.key for medium in self.media)


def text_and_media(parts: Sequence[Any]) -> tuple[str, tuple[GivenMedium, ...]]:
    """Write one turn of the user.

    Pictures beside each other are the frames of one video. Where the text has an ``<image>`` mark for each medium, they
    are shown there, each by itself.

    Args:
        parts: Texts as ``str`` with the prefix of ``text_part``, and media as tasks give them, in their order.

    Returns:
        The text with a ``<video>`` mark for each medium, and the media.

    Raises:
        SampleError: See ``given_medium``.
    """
    visuals = [part for part in parts if not isinstance(part, PromptText)]
    text = "".join(part for part in parts if isinstance(part, PromptText)).replace(MARK, "")
    if visuals and text.count(PICTURE_MARK) == len(visuals):
        return text.replace(PICTURE_MARK, MARK), tuple(map(given_medium, visuals))
    written, media = "", []
    for is_picture, run in groupby(parts, key=lambda part: isinstance(part, Image.Image)):
        for part in [list(run)] if is_picture else run:
            if isinstance(part, PromptText):
                written += part.replace(MARK, "")
                continue
            media.append(given_medium(part))
            written += f"{MARK}\n" if not written or written[-1].isspace() else f"\n{MARK}\n"
    return written, tuple(media)


class PromptText(str):
    """A text of a prompt; other strings are paths of media."""

    __slots__ = ()


def prompt_of_context(context: str, visuals: Any) -> HarnessPrompt:
    """The prompt of a task that gives a text and, beside it, media.

    Args:
        context: The text.
        visuals: A list of media, one medium, or None.
    """
    if visuals is None:
        visuals = []
    elif not isinstance(visuals, list | tuple):
        visuals = [visuals]
    text, media = text_and_media([*visuals, PromptText(context)])
    return HarnessPrompt((("user", text),), media)


def prompt_of_messages(messages: Iterable[Mapping[str, Any]]) -> HarnessPrompt:
    """The prompt of a task that gives messages, as chat interfaces have them.

    Args:
        messages: Each with its ``role`` and ``content``: a text, or a list of texts and media.

    Raises:
        SampleError: A message has something that this model cannot read.
    """
    turns: list[Turn] = []
    media: list[GivenMedium] = []
    for message in messages:
        content = message["content"]
        parts = [PromptText(content)] if isinstance(content, str) else [_part(each) for each in content]
        if message["role"] == "user":
            text, shown = text_and_media(parts)
            media += shown
        else:
            text = "".join(part for part in parts if isinstance(part, PromptText))
            if len(parts) > 0 and not all(isinstance(part, PromptText) for part in parts):
                raise SampleError(f"a message of the {message['role']} shows media; only those of the user may")
        turns.append((message["role"], text))
    return HarnessPrompt(tuple(turns), tuple(media))


def decoding_of(given: Mapping[str, Any], longest: int) -> DecodingSettings:
    """How an answer is generated.

    Args:
        given: The task's settings. It samples with a ``temperature`` above 0, unless ``do_sample`` is false. Numbers of
            beams are ignored.
        longest: Longest answer where the task names none.

    Raises:
        ValueError: A value is out of range.
    """
    tokens = int(given.get("max_new_tokens") or longest)
    temperature = float(given.get("temperature") or 0)
    if temperature == 0 or given.get("do_sample") is False:
        return DecodingSettings(tokens)
    return DecodingSettings(tokens, temperature, int(given.get("top_k") or 0), float(given.get("top_p") or 1))


def by_media(prompts: Iterable[tuple[int, HarnessPrompt]]) -> Iterator[list[tuple[int, HarnessPrompt]]]:
    """Group prompts by their media. Pictures in memory are not collected: of those, only prompts in a row are a group.

    Args:
        prompts: Index and prompt; made one after another, so that few pictures are in memory.

    Yields:
        The prompts about the same media with their indices.
    """
    waiting: dict[tuple[Any, ...], list[tuple[int, HarnessPrompt]]] = {}
    in_memory: list[tuple[int, HarnessPrompt]] = []
    for index, prompt in prompts:
        if not any(medium.pictures for medium in prompt.media):
            waiting.setdefault(prompt.media_key, []).append((index, prompt))
            continue
        if in_memory and in_memory[0][1].media_key != prompt.media_key:
            yield in_memory
            in_memory = []
        in_memory.append((index, prompt))
    if in_memory:
        yield in_memory
    yield from waiting.values()


def _part(content: Mapping[str, Any]) -> Any:
    """A text or medium of a message."""
    if content["type"] == "text":
        return PromptText(content["text"])
    if content["type"] == "audio" and Path(str(content.get("url"))).suffix.lower() != ".webm":  # which is a video
        raise SampleError("a task plays sound; this model reads videos and pictures")
    shown = content.get("url", content.get(content["type"]))
    return shown if isinstance(shown, Image.Image) else content
