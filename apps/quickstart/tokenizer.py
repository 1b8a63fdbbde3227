"""Trains a small tokenizer on the text of shards, and writes it with the config of a small Llama."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from datamodules.shards.member_names import MediaCount, media_endings, split_member_name
from datamodules.shards.schema import VIDEO_MARK, parse_record

PAD, UNKNOWN, TURN_START, TURN_END = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
# ChatML. The tokenizer drops white space, so a question costs five tokens more than its words.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{TURN_START}{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{TURN_END}\n"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{TURN_START}assistant\n{{% endif %}}"
)
_ROLES = ("system", "user", "assistant")
_FEED_FORWARD_STEP = 64


def build_language_model_folder(
    shards: Sequence[Path], folder: Path, *, num_layers: int = 4, width: int = 256, num_heads: int = 4
) -> Path:
    """Write a Hugging Face folder from which a small untrained language model can be built.

    Args:
        shards: WebDataset shards whose conversations have every word that is needed.
        folder: Receives the tokenizer, ``config.json`` and ``generation_config.json``; existing files are overwritten.
        num_layers: Layers of the model.
        width: Its width, divisible by ``2 * num_heads``.
        num_heads: Its attention heads.

    Returns:
        The folder, for ``AutoTokenizer.from_pretrained`` and ``AutoConfig.from_pretrained``.

    Raises:
        ValueError: The width cannot be divided over the heads (rotary embeddings need pairs of channels), or the shards
            have no text.
    """
    if width % (2 * num_heads):
        raise ValueError(f"width {width} is not a multiple of twice the {num_heads} heads")
    tokenizer = train_tokenizer(conversation_texts(shards))
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=-(-8 * width // (3 * _FEED_FORWARD_STEP)) * _FEED_FORWARD_STEP,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=width
        ** -0.5,  # the usual 0.02 is for widths of thousands; here outputs of layers would be too small
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    return folder


def conversation_texts(shards: Sequence[Path]) -> Iterator[str]:
    """All texts of the conversations of shards, without the video mark.

    Args:
        shards: WebDataset shards.

    Raises:
        ValueError: A sample's JSON is wrong; the message names shard and key.
    """
    for shard in shards:
        with tarfile.open(shard) as tar:
            members = [(*split_member_name(member.name, str(shard)), member) for member in tar if member.isfile()]
            endings: dict[str, list[str]] = {}
            for key, ending, _ in members:
                endings.setdefault(key, []).append(ending)
            for key, ending, member in members:
                stream = tar.extractfile(member) if ending == "json" else None
                if stream is None:
                    continue
                where = f"shard {shard}, key {key!r}"
                media = MediaCount.of(media_endings(endings[key]))
                record = parse_record(stream.read(), where=where, media=media)
                for conversation in record.conversations:
                    yield from (turn.content.replace(VIDEO_MARK, " ") for turn in conversation.turns)


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Train a word-level tokenizer: words and punctuation are tokens, white space is not.

    Args:
        texts: What to train on.

    Returns:
        Tokenizer with padding, an end-of-turn token and a ChatML template; unknown words become ``<|unk|>``.

    Raises:
        ValueError: There is no text.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=[PAD, UNKNOWN, TURN_START, TURN_END], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() == len(trainer.special_tokens):
        raise ValueError("the shards have no text to train a tokenizer on; were the conversations written?")
    tokenizer.add_tokens([role for role in _ROLES if tokenizer.token_to_id(role) is None])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=TURN_END,
        extra_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
    )
