"""Answers the prompts of lmms-eval's tasks; media that several prompts are about are decoded and read once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch

from command_errors import explain
from components.interfaces import DecodingSettings, LanguageState, TextInputs, VisualTokens
from components.language.text_limits import TextLimitError, TextLimits
from components.model import VideoLanguageModel
from datamodules.errors import SampleError
from membridge.conversation import joined
from membridge.lmms_eval_plugin.given_media import GivenMedium, read_given
from membridge.lmms_eval_plugin.harness_prompts import HarnessPrompt, Turn, by_media
from membridge.opened_medium import OpenedMedium

OnError = Literal["stop", "empty"]
_SPARE_TOKENS = 2  # a text may have more tokens behind a prompt than inside it, and one ends the turn


class HarnessAnswer(NamedTuple):
    """An answer to a prompt."""

    text: str = ""
    prompt_tokens: int = 0  # visual tokens included
    new_tokens: int = 0
    loss: float = 0.0  # of the prompt's choice: mean negative log likelihood per token, lower is better
    is_greedy: bool = False  # whether greedy decoding gives the prompt's choice


class HarnessAnswers:
    """Asks a model the prompts of lmms-eval.

    Args:
        model: A model in evaluation mode.
        at_once: Prompts about the same media that are answered at the same time; memory grows with it.
        on_error: What a medium that cannot be read, or a prompt that is too long, does: ``stop`` the evaluation, or
            make the answer ``empty``, with a warning. A choice by likelihood cannot be empty, so it stops.
        warn: Gets the warnings.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self, model: VideoLanguageModel, at_once: int, on_error: OnError, warn: Callable[[str], object]
    ) -> None:
        if at_once < 1:
            raise ValueError(f"batch_size is {at_once}; expected 1 or more questions about a video at once")
        if on_error not in ("stop", "empty"):
            raise ValueError(f"on_error is {on_error!r}; expected stop or empty")
        self.model = model
        self.at_once = at_once
        self.on_error = on_error
        self.warn = warn
        self._given: tuple[GivenMedium, ...] = ()
        self._read: list[OpenedMedium] = []

    def answer(self, prompts: Iterable[tuple[int, HarnessPrompt]]) -> Iterator[tuple[int, HarnessAnswer]]:
        """Answer prompts, those about the same media together.

        Args:
            prompts: Index and prompt. All have a choice, or none.

        Yields:
            Index and answer; in another order than the prompts.

        Raises:
            OSError: A file is missing, or may not be read.
            ValueError: A medium cannot be decoded, or a prompt is too long.
        """
        for group in by_media(prompts):
            by_settings: dict[Any, list[tuple[int, HarnessPrompt]]] = {}
            for index, prompt in group:
                by_settings.setdefault(prompt.settings, []).append((index, prompt))
            for alike in by_settings.values():
                asked = _conversations(alike)
                for first in range(0, len(asked), self.at_once):
                    yield from self._answer_safely(asked[first : first + self.at_once])

    def answer_one(self, prompt: HarnessPrompt) -> HarnessAnswer:
        """Answer one prompt; media are not read again if the prompt before was about the same."""
        [(_, answer)] = self.answer([(0, prompt)])
        return answer

    def _answer_safely(self, asked: Sequence[list[tuple[int, HarnessPrompt]]]) -> list[tuple[int, HarnessAnswer]]:
        """Answer conversations; where one fails, each by itself."""
        prompts = [[prompt for _, prompt in conversation] for conversation in asked]
        try:
            answers = self._answer(prompts)
        except (OSError, SampleError, TextLimitError) as error:
            if isinstance(error, TextLimitError) and len(asked) > 1:
                return [answer for conversation in asked for answer in self._answer_safely([conversation])]
            if self.on_error == "stop" or prompts[0][0].choice is not None:
                raise
            self.warn(f"empty answer, which is wrong in most tasks: {explain(error) or error}")
            answers = [[HarnessAnswer()] * len(conversation) for conversation in asked]
        indices = [index for conversation in asked for index, _ in conversation]
        return list(zip(indices, [answer for each in answers for answer in each], strict=True))

    @torch.no_grad()
    def _answer(self, asked: Sequence[Sequence[HarnessPrompt]]) -> list[list[HarnessAnswer]]:
        """Answer conversations about the same media; each is one prompt, or one for each choice."""
        media = self._media(asked[0][0].media)
        if len(media) > 1 and len(asked) > 1:
            return [answer for each in asked for answer in self._answer([each])]
        state = self._prefill([each[0].turns for each in asked], media)
        if asked[0][0].choice is not None:
            return self._score(state, asked)
        prompts = [each[0] for each in asked]
        room = _room(self.model, state)
        if len(prompts) > 1 and room is not None and room < max(prompt.settings.max_new_tokens for prompt in prompts):
            return [answer for each in asked for answer in self._answer([each])]  # each up to the end of the context
        return [[answer] for answer in self._generate(state, prompts, room)]

    def _media(self, given: tuple[GivenMedium, ...]) -> list[OpenedMedium]:
        """Read media, but not those that were read last."""
        if tuple(each.key for each in given) != tuple(each.key for each in self._given):
            self._given, self._read = (), []  # first, so that two long videos are never in memory
            self._read = [read_given(self.model, each) for each in given]
            self._given = given  # also keeps pictures, which are compared by identity
        return self._read

    def _prefill(self, conversations: Sequence[Sequence[Turn]], media: Sequence[OpenedMedium]) -> LanguageState:
        text = self.model.language_model.prompts(conversations)
        return self.model.language_model.prefill(self._visual(text, media), text)

    def _visual(self, text: TextInputs, media: Sequence[OpenedMedium]) -> VisualTokens:
        if not media:
            device = next(self.model.parameters()).device
            nothing = torch.zeros(1, 1, self.model.language_model.dim, device=device)
            return VisualTokens(nothing, torch.zeros(1, 1, dtype=torch.bool))
        if len(media) == 1:
            return media[0].visual_rows(self.model, text)
        return joined([medium.visual_tokens(self.model, text) for medium in media])

    def _score(self, state: LanguageState, asked: Sequence[Sequence[HarnessPrompt]]) -> list[list[HarnessAnswer]]:
        language_model = self.model.language_model
        choices = [[prompt.choice or "" for prompt in each] for each in asked]
        scores = language_model.score(state, choices)
        longest = max(len(language_model.word_ids(choice)) for each in choices for choice in each) + _SPARE_TOKENS
        greedily = HarnessPrompt((), settings=DecodingSettings(longest))
        greedy = self._generate(state, [greedily] * len(asked), _room(self.model, state))
        return [
            [
                # At the limit the model has not ended its answer.
                HarnessAnswer(choice, length, 0, -score, choice == decoded.text and decoded.new_tokens < longest)
                for choice, score in zip(of_conversation, of_choices.tolist(), strict=True)
            ]
            for of_conversation, of_choices, length, decoded in zip(choices, scores, state.lengths, greedy, strict=True)
        ]

    def _generate(
        self, state: LanguageState, prompts: Sequence[HarnessPrompt], room: int | None
    ) -> list[HarnessAnswer]:
        """Generate answers, as long as the prompts say but at most up to the end of the context."""
        settings = prompts[0].settings
        tokens = settings.max_new_tokens if room is None else max(1, min(room, settings.max_new_tokens))
        seeds = tuple(prompt.seed for prompt in prompts)
        answers = self.model.language_model.decode(state, replace(settings, max_new_tokens=tokens, seed=seeds))
        return [
            HarnessAnswer(_cut(text, prompt.until), length, len(ids))
            for text, prompt, length, ids in zip(answers.texts, prompts, state.lengths, answers.token_ids, strict=True)
        ]


def _conversations(prompts: Iterable[tuple[int, HarnessPrompt]]) -> list[list[tuple[int, HarnessPrompt]]]:
    """Prompts that are read together: the choices of a question; a prompt for a generated answer is alone."""
    found: dict[Any, list[tuple[int, HarnessPrompt]]] = {}
    for index, prompt in prompts:
        found.setdefault(index if prompt.choice is None else prompt.turns, []).append((index, prompt))
    return list(found.values())


def _room(model: VideoLanguageModel, state: LanguageState) -> int | None:
    """Tokens that the longest conversation may still have; None without a limit."""
    limits = getattr(model.language_model, "limits", None)
    if not isinstance(limits, TextLimits) or limits.context_length is None:
        return None
    return limits.context_length - max(state.lengths)


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of ``until``."""
    ends = [text.find(each) for each in until if each and each in text]
    return text[: min(ends)].rstrip() if ends else text
