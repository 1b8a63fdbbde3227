"""From the turns of a conversation to token ids and labels, through the tokenizer's own chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import AutoTokenizer

from datamodules.batch import IGNORED_LABEL, VIDEO_PLACEHOLDER
from datamodules.errors import SampleError
from datamodules.schema import VIDEO_MARK, Turn


class EncodedTurns(NamedTuple):
    """One conversation as the language model reads it."""

    input_ids: Tensor  # [k] int64, VIDEO_PLACEHOLDER where the visual tokens belong
    labels: Tensor  # [k] int64, IGNORED_LABEL outside the assistant's turns


class _Span(NamedTuple):
    """What one assistant turn adds to the rendered text, as character positions."""

    start: int
    content_end: int  # after the answer itself; what follows is the template's
    end: int


def load_tokenizer(path: str) -> Any:
    """Load a tokenizer and check that conversations can be encoded with it.

    Args:
        path: Folder, or name on the model hub.

    Raises:
        ValueError: There is no tokenizer, it has no chat template, or it cannot tell where its tokens lie in the text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(path).is_dir() else "folder that exists or a hub name that can be reached"
        raise ValueError(f"no tokenizer in {path!r}: expected a tokenizer's {kind} ({error})") from error
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer {path!r} has no chat template, so user and assistant turns cannot be told apart; "
            "put a chat_template.jinja into its folder"
        )
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer {path!r} has no tokenizer.json, which tells where each token lies in the text")
    return tokenizer


def build_turns(
    turns: Sequence[Turn], tokenizer: Any, *, max_length: int | None = None, where: str = "conversation"
) -> EncodedTurns:
    """Encode a conversation; only what the assistant says is labelled, with the token that ends its turn.

    The assistant's part of the text is what a turn adds to the prompt before it, so it is right for any template in
    which a conversation's beginning renders to the beginning of the whole.

    Args:
        turns: The conversation, checked as ``datamodules.schema`` tells.
        tokenizer: Tokenizer with a chat template, see ``load_tokenizer``.
        max_length: Most ids that fit. None = no bound.
        where: Shard, key and conversation, for messages.

    Returns:
        Ids and labels; the tokenizer never sees the video mark.

    Raises:
        SampleError: The template cannot render these turns, or not such that the assistant's part can be told; or the
            conversation is too long. Cut short it could lose its answer, and then it would train on nothing.
    """
    text, spans = _render(turns, tokenizer, where)
    ids, offsets = _tokenize(text, tokenizer)
    if max_length is not None and len(ids) > max_length:
        raise SampleError(
            f"{where}: {len(ids)} tokens, but max_length is {max_length}; raise it, or split the conversation"
        )
    ends_turn = _special_ids(tokenizer)
    labels = [IGNORED_LABEL] * len(ids)
    for span in spans:
        inside = [index for index, (start, end) in enumerate(offsets) if end > span.start and start < span.end]
        for index in inside:
            labels[index] = ids[index]
            if offsets[index][0] >= span.content_end and ids[index] in ends_turn:
                break  # what the template puts between two turns is not the assistant's
    return EncodedTurns(torch.tensor(ids), torch.tensor(labels))


def _render(turns: Sequence[Turn], tokenizer: Any, where: str) -> tuple[str, list[_Span]]:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = ""
    spans = []
    for index, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        prompt = _apply_template(messages[:index], tokenizer, where, add_generation_prompt=True)
        answered = _apply_template(messages[: index + 1], tokenizer, where, add_generation_prompt=False)
        if not prompt.startswith(text) or not answered.startswith(prompt):
            raise SampleError(
                f"{where}: the chat template writes the beginning of a conversation differently once turn {index} is "
                "there, so the assistant's tokens cannot be told from the template's; use a template without such rules"
            )
        content_start = answered.find(turn.content.strip(), len(prompt))
        if content_start < 0:
            raise SampleError(f"{where}: the chat template does not show turn {index} as it was said: {turn.content!r}")
        spans.append(_Span(len(prompt), content_start + len(turn.content.strip()), len(answered)))
        text = answered
    marks = sum(turn.content.count(VIDEO_MARK) for turn in turns)
    if text.count(VIDEO_MARK) != marks:
        raise SampleError(f"{where}: the chat template shows {text.count(VIDEO_MARK)} of {marks} {VIDEO_MARK} marks")
    return text, spans


def _apply_template(messages: list[dict[str, str]], tokenizer: Any, where: str, *, add_generation_prompt: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except (TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise SampleError(f"{where}: the chat template cannot render the turns {roles}: {error}") from error
    return text


def _tokenize(text: str, tokenizer: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character spans. The template has written the special tokens, so none is added.

    The token that begins a text is cut off first: to LLaMA's tokenizer what follows it begins the text and gets a blank
    in front, but reads as the middle of one if both are tokenized together.
    """
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    position = 0
    begin = tokenizer.bos_token
    if begin and text.startswith(begin):
        ids, offsets, position = [tokenizer.bos_token_id], [(0, len(begin))], len(begin)
    for number, piece in enumerate(text[position:].split(VIDEO_MARK)):
        if number:
            ids.append(VIDEO_PLACEHOLDER)
            offsets.append((position, position + len(VIDEO_MARK)))
            position += len(VIDEO_MARK)
        encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids += encoded["input_ids"]
        offsets += [(position + start, position + end) for start, end in encoded["offset_mapping"]]
        position += len(piece)
    return ids, offsets


def _special_ids(tokenizer: Any) -> set[int]:
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)
