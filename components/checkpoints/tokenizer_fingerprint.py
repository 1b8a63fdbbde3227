"""What makes two tokenizers the same: equal fingerprints give equal ids for equal conversations."""

import hashlib
import json
from typing import Any, NamedTuple

# Ids of this text differ where vocabularies are equal but text is cut otherwise: blanks, lines, digits, accents, emoji.
_SAMPLE_TEXT = "Which colour?  The 2nd one,\nsaid naïve Zoë:\n\n\t1234 + 5 = 1239; it's “red” 🙂 视频 "


class TokenizerFingerprint(NamedTuple):
    """Hashes of the three things that decide which ids a conversation gets, each a hexadecimal string.

    Attributes:
        vocabulary: Every token with its id, and the ids of a sample text (two tokenizers of one vocabulary may still
            cut text in different ways).
        special_ids: Ids that begin, end, pad or stand for unknown words, and all tokens that are marked as special.
        chat_template: Text of the chat template.
    """

    vocabulary: str
    special_ids: str
    chat_template: str


def tokenizer_fingerprint(tokenizer: Any) -> TokenizerFingerprint:
    """Fingerprint a Hugging Face tokenizer. It depends on its content alone, not on its folder or on versions.

    Args:
        tokenizer: Any Hugging Face tokenizer, with or without a chat template.
    """
    named = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    marked = sorted(index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    sample_ids = tokenizer(_SAMPLE_TEXT, add_special_tokens=False)["input_ids"]
    return TokenizerFingerprint(
        vocabulary=_hash([sorted(tokenizer.get_vocab().items()), sample_ids]),
        special_ids=_hash([named, marked]),
        chat_template=_hash(tokenizer.chat_template),
    )


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
