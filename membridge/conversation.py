"""A conversation with a model about videos and pictures, over several turns; answers may appear word by word."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional

from components.interfaces import DecodingSettings, LanguageState, Streamer, TextInputs, VisualTokens
from components.model import VideoLanguageModel
from membridge.opened_medium import OpenedMedium, open_medium

MARK = "<video>"
"""Where a medium is shown in a question."""
EMPTY_ANSWER = "(the model gave an empty answer)"
"""What apps print for an answer without text."""


class Reply(NamedTuple):
    """An answer, and what it took."""

    text: str
    visual_tokens: int  # of the media that this question showed for the first time
    prompt_tokens: int  # that were read for this question, visual tokens included
    new_tokens: int
    first_token_seconds: float  # from the question to the first token
    seconds: float


class Conversation:
    """Asks a model about media, turn by turn. Each medium and each token is read once.

    A medium is shown in the first question after it was loaded: at its ``<video>`` marks, or in front of a question
    without marks, as in converted training data.

    Args:
        model: A model in evaluation mode.
        settings: How answers are chosen; greedily, and as long as in the model's evaluation, by default.
        system: System text; by default that of the chat template.

    Attributes:
        media: The media so far.
        turns: Role and text of every turn so far.
        settings: See above; may be replaced between questions.
        frames: How files that are loaded from now on become frames; the model's own settings by default.

    Raises:
        ValueError: The model is in training mode, where dropout changes answers.
    """

    def __init__(
        self, model: VideoLanguageModel, settings: DecodingSettings | None = None, system: str | None = None
    ) -> None:
        if model.training:
            raise ValueError("the model is in training mode, which changes answers at random; call model.eval() first")
        self.model = model
        self.settings = settings or DecodingSettings(max_new_tokens=model.training_facts.max_new_tokens)
        self.frames = model.training_facts.frames
        self.media: list[OpenedMedium] = []
        self._system = system
        self.clear()

    def clear(self, *, with_media: bool = False) -> None:
        """Forget the turns.

        Args:
            with_media: Forget the media too. Otherwise they are shown in the next question again.
        """
        if with_media:
            self.media.clear()
        self.resume([] if self._system is None else [("system", self._system)])

    def resume(self, turns: Sequence[tuple[str, str]]) -> None:
        """Go on from turns that were said elsewhere. They are read with the next question.

        Args:
            turns: Role and text of every turn. The ``<video>`` marks of the user's turns show the first media, in their
                order; those in the next question show the others.

        Raises:
            ValueError: There are more marks than media.
        """
        if (marks := _marks_of_user(turns)) > len(self.media):
            raise ValueError(
                f"the turns have {marks} {MARK} marks, but {len(self.media)} videos and pictures were loaded; load "
                "them first"
            )
        self.turns = list(turns)
        self._state: LanguageState | None = None
        self._unseen = list(self.media)
        self._shown_by: list[TextInputs] = []

    def undo(self) -> str:
        """Forget the last question and its answer. Media that it showed are shown in the next question again.

        The next question reads the turns before it again.

        Returns:
            The question, with its ``<video>`` marks.

        Raises:
            ValueError: There is none.
        """
        if len(self.turns) < 2 or self.turns[-1][0] != "assistant":
            raise ValueError("there is no question to undo; ask one first")
        _, question = self.turns[-2]
        self.resume(self.turns[:-2])
        return question

    def load(self, path: str | Path, *, start_ms: int | None = None, end_ms: int | None = None) -> OpenedMedium:
        """Read a video or picture, to be shown in the next question; see ``open_medium``."""
        medium = open_medium(self.model, path, start_ms=start_ms, end_ms=end_ms, frames=self.frames)
        self.add(medium)
        return medium

    def add(self, medium: OpenedMedium) -> None:
        """Show a medium that the model has read in the next question."""
        self.media.append(medium)
        self._unseen.append(medium)

    def ask(self, question: str, streamer: Streamer | None = None) -> Reply:
        """Ask the next question. If anything fails or is interrupted, the conversation is as it was before.

        Args:
            question: Plain text; see the class about ``<video>`` marks.
            streamer: Gets every token as soon as it is chosen.

        Raises:
            ValueError: The number of marks is not that of the media that were not shown yet, or the conversation
                becomes longer than the context.
        """
        begin = time.perf_counter()
        turns = [*self.turns, ("user", self._with_marks(question))]
        text, visual = self._text_and_visual(turns)
        length = self._state.lengths[0] if self._state is not None else 0
        state = self._read(text, visual)
        first: list[float] = []

        def watch(tokens: object) -> None:
            first.append(time.perf_counter() - begin)
            if streamer is not None:
                streamer(tokens)  # type: ignore[arg-type]

        answers = self.model.language_model.decode(state, self.settings, watch)
        [answer] = answers.texts
        seconds = time.perf_counter() - begin
        shown = 0 if visual is None else int(visual.mask.sum())
        reply = Reply(
            answer, shown, state.lengths[0] - length, len(answers.token_ids[0]), first[0] if first else seconds, seconds
        )
        shown_by = [*self._shown_by, *[text] * len(self._unseen)]
        # Last, and without a call in between, so that Ctrl-C comes before all of it or after it.
        self.turns, self._state, self._unseen = [*turns, ("assistant", answer)], answers.state, []
        self._shown_by = shown_by
        return reply

    def segment_attention(self, number: int) -> list[float] | None:
        """How much the readers attended to each scene of a medium, for the question that showed it.

        Args:
            number: Index of the medium in ``media``.

        Returns:
            Shares that sum to 1. None if no question has shown the medium yet, or no reader shows its attention.
        """
        if number >= len(self._shown_by):
            return None
        return self.media[number].segment_attention(self.model, self._shown_by[number])

    def _with_marks(self, question: str) -> str:
        """The question with a mark for every medium that it shows."""
        earlier = self.turns if self._state is None else []  # turns that are read with this question
        marks, unseen = question.count(MARK), len(self._unseen) - _marks_of_user(earlier)
        if marks == 0 and unseen:
            return "".join(f"{MARK}\n" for _ in range(unseen)) + question
        if marks != unseen:
            raise ValueError(
                f"the question has {marks} {MARK} marks, but {unseen} videos and pictures were loaded since the last "
                "question: write one mark for each, or none"
            )
        return question

    def _text_and_visual(self, turns: Sequence[tuple[str, str]]) -> tuple[TextInputs, VisualTokens | None]:
        """The new text, and what it shows."""
        language_model = self.model.language_model
        text = language_model.prompts([turns]) if self._state is None else language_model.next_prompts([turns])
        if not self._unseen:
            return text, None
        return text, joined([medium.visual_tokens(self.model, text) for medium in self._unseen])

    def _read(self, text: TextInputs, visual: VisualTokens | None) -> LanguageState:
        language_model = self.model.language_model
        if self._state is not None:
            return language_model.extend(self._state, text, visual)
        if visual is None:
            device = next(self.model.parameters()).device
            nothing = torch.zeros(1, 1, language_model.dim, device=device)
            visual = VisualTokens(nothing, torch.zeros(1, 1, dtype=torch.bool))
        return language_model.prefill(visual, text, room=self.settings.max_new_tokens)


def _marks_of_user(turns: Sequence[tuple[str, str]]) -> int:
    """Number of media that turns show; in other turns a mark is plain text."""
    return sum(text.count(MARK) for role, text in turns if role == "user")


def joined(rows: Sequence[VisualTokens]) -> VisualTokens:
    """Visual tokens of several media, a row each; places are left out."""
    longest = max(row.tokens.shape[1] for row in rows)
    spare = [longest - row.tokens.shape[1] for row in rows]
    tokens = [functional.pad(row.tokens, (0, 0, 0, more)) for row, more in zip(rows, spare, strict=True)]
    masks = [functional.pad(row.mask.cpu(), (0, more)) for row, more in zip(rows, spare, strict=True)]
    return VisualTokens(torch.cat(tokens), torch.cat(masks))
