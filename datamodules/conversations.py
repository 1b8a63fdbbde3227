"""Encodes conversations: from turns to token ids and labels, by the tokenizer's chat template."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer

from components.language.chat import EncodedTurns, chat_format
from components.language.chat_template import ChatError, ChatSettings
from datamodules.errors import ConversationError, LongConversationError
from datamodules.shards.schema import Turn


def load_tokenizer(path: str) -> Any:
    """Load a tokenizer and check that conversations can be encoded with it.

    Args:
        path: Folder, or name on the model hub.

    Raises:
        ValueError: There is no tokenizer, it does not give the positions of tokens in the text, or its chat template
            makes no prompts (see ``components.language.chat.ChatFormat``).
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(path).is_dir() else "folder that exists or a hub name that can be reached"
        raise ValueError(f"no tokenizer in {path!r}: expected a tokenizer's {kind} ({error})") from error
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer {path!r} has no tokenizer.json, which gives each token's position in the text")
    chat_format(tokenizer)
    return tokenizer


def build_turns(
    turns: Sequence[Turn],
    tokenizer: Any,
    *,
    chat: ChatSettings = ChatSettings(),  # noqa: B008  frozen
    max_length: int | None = None,
    where: str = "conversation",
) -> EncodedTurns:
    """Encode a conversation. Labels are the assistant's text and the token that ends its turn.

    Args:
        turns: The conversation, checked by ``datamodules.shards.schema``.
        tokenizer: Tokenizer with a chat template, see ``load_tokenizer``.
        chat: What the text depends on besides conversation and template.
        max_length: Most ids. None = no limit.
        where: Shard, key and conversation, for messages.

    Returns:
        Ids and labels as ``components.language.chat.ChatFormat.encode`` gives them.

    Raises:
        ConversationError: The template cannot render these turns, or changes their text.
        LongConversationError: The conversation is too long. It is not truncated, because it could lose its answer.
    """
    form = chat_format(tokenizer, chat)
    try:
        encoded = form.encode(turns)
    except ChatError as error:
        raise ConversationError(f"{where}: {error}") from error
    num_tokens = len(encoded.input_ids)
    if max_length is not None and num_tokens > max_length:
        raise LongConversationError(
            f"{where}: {num_tokens} tokens, but max_length is {max_length}; raise it, or split the conversation"
        )
    return encoded


def num_unknown_words(ids: Tensor, tokenizer: Any) -> int:
    """How many of the ids ``[k]`` are the unknown token.

    Tokenizers that use the same id to begin, end or pad texts (GPT-2, GPT-NeoX, OPT) can encode every byte; the
    result is then 0.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        return 0
    return int((ids == unknown).sum())
