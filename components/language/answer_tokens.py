"""Chooses the next token of every answer, finds out where answers end, and turns ids into text as they come."""

from collections.abc import Sequence

import torch
from torch import Tensor

from components.interfaces import DecodingSettings, NewTokens, Streamer
from components.language.chat import ChatFormat

_LOWEST_TEMPERATURE = 1e-30  # lower ones are the same: greedy


class TokenChooser:
    """Chooses the next token of every conversation, greedily or by sampling.

    Sampling draws one number in 0..1 a token from the conversation's seed and takes the token at which the cumulative
    probability, from the most likely token on, exceeds it. So nothing depends on the other conversations.

    Args:
        settings: See ``DecodingSettings``.
        num_conversations: C.

    Raises:
        ValueError: There are several seeds, but not one for each conversation.
    """

    def __init__(self, settings: DecodingSettings, num_conversations: int) -> None:
        seeds = settings.seed if isinstance(settings.seed, tuple) else (settings.seed,) * num_conversations
        if len(seeds) != num_conversations:
            raise ValueError(f"{len(seeds)} seeds for {num_conversations} conversations; give one for each, or one")
        self._settings = settings
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(self, logits: Tensor) -> Tensor:
        """Choose a token of every conversation.

        Args:
            logits: ``[C, vocabulary]``.

        Returns:
            Ids ``[C]``.
        """
        if self._settings.temperature == 0:
            return logits.float().argmax(dim=-1)
        logits = logits.float()
        # Differences to the largest, so that division by a tiny temperature gives zero or minus infinity, never NaN.
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / max(self._settings.temperature, _LOWEST_TEMPERATURE)
        scores, ids = logits.sort(dim=-1, descending=True, stable=True)
        if self._settings.top_k:
            scores[:, self._settings.top_k :] = -torch.inf
        probabilities = scores.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        cumulative = torch.where(before < self._settings.top_p, probabilities, 0.0).cumsum(dim=-1)
        drawn = torch.stack([torch.rand(1, generator=each) for each in self._generators]).to(logits.device)  # [C, 1]
        # A product that rounds up to the sum would choose a token without probability.
        place = (cumulative <= drawn * cumulative[:, -1:]).sum(dim=-1, keepdim=True)
        place = place.minimum((cumulative < cumulative[:, -1:]).sum(dim=-1, keepdim=True))
        return ids.gather(1, place).squeeze(1)


class AnswerRecorder:
    """Collects the tokens of every answer until it ends, and gives them to a streamer.

    Args:
        chat: Ends answers and decodes them.
        settings: Length limit and further stop ids.
        num_conversations: C.
        streamer: Gets every token as soon as it is chosen.

    Attributes:
        token_ids: Tokens of every answer so far, without the one that ended it.
        ended: Whether each answer has ended with a stop id.
    """

    def __init__(
        self, chat: ChatFormat, settings: DecodingSettings, num_conversations: int, streamer: Streamer | None
    ) -> None:
        self.token_ids: list[list[int]] = [[] for _ in range(num_conversations)]
        self.ended = [False] * num_conversations
        self._chat = chat
        self._stop_ids = {*chat.stop_ids, *settings.stop_ids}
        self._max_new_tokens = settings.max_new_tokens
        self._num_steps = 0
        self._streamer = streamer
        self._streamed = [""] * num_conversations

    @property
    def has_finished(self) -> bool:
        """Whether all answers have ended or are as long as allowed."""
        return all(self.ended) or self._num_steps >= self._max_new_tokens

    def add(self, chosen: Sequence[int]) -> None:
        """Take the next token of every conversation; those of answers that have ended are ignored."""
        self._num_steps += 1
        for row, token in enumerate(chosen):
            self.ended[row] = self.ended[row] or token in self._stop_ids
            if not self.ended[row]:
                self.token_ids[row].append(token)
        if self._streamer is not None:
            new = tuple(None if ended else token for token, ended in zip(chosen, self.ended, strict=True))
            self._streamer(NewTokens(new, self._new_texts(is_last=False)))
            if self.has_finished:
                self._streamer(NewTokens((None,) * len(new), self._new_texts(is_last=True)))

    def texts(self) -> list[str]:
        """Text of every answer."""
        return [self._chat.decode(ids) for ids in self.token_ids]

    def _new_texts(self, *, is_last: bool) -> tuple[str, ...]:
        """The text of every answer that was not returned before, as far as further tokens cannot change it."""
        new = []
        for row, text in enumerate(self.texts()):
            # A letter may have several tokens; until the last of them it is decoded as the replacement character.
            certain = text if is_last or self.ended[row] else text.rstrip("\ufffd").rstrip()
            certain = certain if certain.startswith(self._streamed[row]) else self._streamed[row]
            new.append(certain[len(self._streamed[row]) :])
            self._streamed[row] = certain
        return tuple(new)
