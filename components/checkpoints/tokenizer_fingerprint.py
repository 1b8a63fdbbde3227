"""Fingerprints of tokenizers: if two are equal, the same conversation gets the same token ids."""

import hashlib
import json
from typing import Any, NamedTuple

# Tokenizers with equal vocabularies that split text differently give different ids for this text.
_SAMPLE_TEXT = "Which colour?  The 2nd one,\nsaid naïve Zoë:\n\n\t1234 + 5 = 1239; it's “red” 🙂 视频 "


class TokenizerFingerprint(NamedTuple):
    """Hashes of the three things that decide which ids a conversation gets, each a hexadecimal string.

    Attributes:
        vocabulary: Every token with its id, and the ids of a sample text.
        special_ids: Ids of the begin, end, padding and unknown tokens, and of all tokens that are marked as special.
        chat_template: Text of the chat template.
    """

    vocabulary: str
    special_ids: str
    chat_template: str


def tokenizer_fingerprint(tokenizer: Any) -> TokenizerFingerprint:
    """Compute the fingerprint of a Hugging Face tokenizer. It does not depend on its folder or on library versions.

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
