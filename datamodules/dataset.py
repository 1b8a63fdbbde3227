"""Reads samples: from a sample's number to frames and token ids. Runs in the data loader's worker processes."""

import logging
from collections.abc import Sequence, Set
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from components.language.chat_template import ChatSettings
from datamodules.batch import AskedTurn, EncodedConversation, Question, Sample, SampleMedia, empty_text_sample
from datamodules.conversations import build_turns, num_unknown_words
from datamodules.errors import SampleError
from datamodules.failures import FailurePolicy, SkipBounds
from datamodules.media.media_reader import MediaReader
from datamodules.media.shown_seconds import shown_seconds
from datamodules.order.training_order import Draw
from datamodules.shards.schema import VIDEO_MARK, Conversation, Meta
from datamodules.shards.shard_reader import RawSample, ShardReader

_log = logging.getLogger(__name__)

# Share of a conversation's tokens; a few rare names cause no warning.
_MANY_UNKNOWN_WORDS = 0.1


class ConversationDataset(Dataset[Sample]):
    """The dataset: for a draw it decodes the media once and encodes the drawn conversations about them.

    Args:
        reader: The shards.
        tokenizer: See ``load_tokenizer``.
        media: How media bytes become frames.
        chat: What the text of conversations depends on besides the chat template.
        max_length: Most ids of a conversation; None = no limit.
        seed: Seed of the augmentation, together with a draw's position in the stream.
        failures: What happens to wrong samples.

    Raises:
        SampleError: The index lists a wrong sample and ``on_error`` is ``raise``. Without this check the run would fail
            hours later.
    """

    def __init__(
        self,
        reader: ShardReader,
        tokenizer: Any,
        media: MediaReader,
        *,
        chat: ChatSettings = ChatSettings(),  # noqa: B008  frozen
        max_length: int | None = None,
        seed: int = 0,
        failures: FailurePolicy = FailurePolicy(),  # noqa: B008  frozen
    ) -> None:
        self.reader = reader
        self.tokenizer = tokenizer
        self.media = media
        self.chat = chat
        self.max_length = max_length
        self.seed = seed
        self.skipped = failures.skipped_samples()
        self._bounds = SkipBounds(failures)
        self._warned_of_unknown_words = False
        if failures.on_error == "raise":
            self._check_index()

    def __len__(self) -> int:
        return len(self.reader)

    def locate(self, keys: Set[str]) -> dict[str, list[tuple[str, list[str]]]]:
        """Find samples by key: for each key, shard and member names of all samples that have it."""
        found: dict[str, list[tuple[str, list[str]]]] = {key: [] for key in keys}
        for number, entry in enumerate(self.reader.entries()):
            if entry.key in found:
                members = [f"{entry.key}.{ending}" for ending in entry.members]
                found[entry.key].append((self.reader.shard(number).url, members))
        return found

    def __getitem__(self, draw: Draw) -> Sample:
        """Read, decode and encode one sample. Media that none of the drawn conversations shows are not decoded.

        Raises:
            SampleError: The sample is wrong or its media is broken.
        """
        raw = self.reader.read(draw.sample)
        every = raw.record.conversations
        chosen = every if draw.conversations is None else [every[number] for number in draw.conversations]
        shown = sorted({number for conversation in chosen for number in conversation.media})
        media = {}
        for number in shown:
            seed = (self.seed, draw.position, number) if number else (self.seed, draw.position)
            media[number] = self.media.read(raw.media[number], seed, is_alone=len(raw.media) == 1)
        conversations = tuple(self._encode(raw, conversation, media) for conversation in chosen)
        return Sample(raw.key, tuple(media.values()), conversations)

    def __getitems__(self, draws: Sequence[Draw]) -> list[Sample]:
        """Read one rank's part of a batch, as PyTorch's data loader asks for it.

        Returns:
            One sample a draw; an ``empty_text_sample`` for each that was left out.

        Raises:
            SampleError: A sample is wrong and ``on_error`` is ``raise``.
            TooManySkippedError: More samples are wrong than may be left out.
        """
        if self.skipped is None:
            return [self[draw] for draw in draws]
        samples = []
        for draw in draws:
            shard, entry = self.reader.shard(draw.sample).url, self.reader.entry(draw.sample)
            try:
                self.skipped.check(shard, entry.key, draw.position)
                samples.append(self[draw])
                self._bounds.add(None)
            except SampleError as error:
                self.skipped.add(shard, entry.key, draw.position, error, media=entry.made_from)
                samples.append(empty_text_sample(error.kind))
                self._bounds.add(error)
        return samples

    def _encode(self, raw: RawSample, conversation: Conversation, media: dict[int, SampleMedia]) -> EncodedConversation:
        where = f"{raw.where}, conversation {conversation.id!r}"
        encoded = build_turns(
            conversation.turns, self.tokenizer, chat=self.chat, max_length=self.max_length, where=where
        )
        self._warn_of_unknown_words(encoded.input_ids, where)
        first, *later = _asked_turns(conversation)
        question = Question(
            key=raw.key,
            id=conversation.id,
            source=raw.record.source,
            category=conversation.category,
            question=first.question,
            answer=first.answer,
            options=conversation.options,
            num_frames=sum(media[number].num_frames for number in conversation.media),
            meta={name: str(value) for name, value in _meta(raw, conversation).items()},
            later_turns=tuple(later),
            seconds=shown_seconds([(raw.media[number], media[number]) for number in conversation.media]),
        )
        numbers = list(media)  # those that are not decoded are not counted
        shown = tuple(numbers.index(number) for number in conversation.media)
        return EncodedConversation(encoded.input_ids, encoded.labels, question, shown)

    def _warn_of_unknown_words(self, ids: Tensor, where: str) -> None:
        if self._warned_of_unknown_words:
            return
        share = num_unknown_words(ids, self.tokenizer) / len(ids)
        if share > _MANY_UNKNOWN_WORDS:
            self._warned_of_unknown_words = True
            _log.warning(
                "%s: %.0f %% of its tokens are %r, words that the tokenizer does not know; training on them teaches "
                "nothing. Take the tokenizer of a language model that knows the language (this warning comes once)",
                where,
                100 * share,
                self.tokenizer.unk_token,
            )

    def _check_index(self) -> None:
        wrong = [index for index, entry in enumerate(self.reader.entries()) if entry.problem is not None]
        if wrong:
            try:
                self.reader.read(wrong[0])
            except SampleError as error:
                raise SampleError(
                    f"{len(wrong)} of {len(self.reader)} samples are wrong. The first: {error}. Correct the shards, or "
                    "set on_error to 'skip' to leave such samples out and list them"
                ) from error


def _asked_turns(conversation: Conversation) -> list[AskedTurn]:
    """Every question with its answer; a question's only video mark is left out."""
    asked = [turn.content for turn in conversation.turns if turn.role == "user"]
    answered = [turn.content.strip() for turn in conversation.turns if turn.role == "assistant"]
    plain = [text.replace(VIDEO_MARK, "") if text.count(VIDEO_MARK) == 1 else text for text in asked]
    return [AskedTurn(question.strip(), answer) for question, answer in zip(plain, answered, strict=True)]


def _meta(raw: RawSample, conversation: Conversation) -> Meta:
    """The sample's ``meta``, and of several media the names of the files that the conversation shows."""
    shown = [raw.record.medium(number).meta for number in conversation.media] if raw.record.media else []
    names = ", ".join(str(meta["media"]) for meta in shown if "media" in meta)
    return {**raw.record.meta, **({"media": names} if names else {})}
