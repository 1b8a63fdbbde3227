"""The base class of language models: reads prompts once, then answers questions and scores options from there."""

from collections.abc import Sequence

import torch
from torch import Tensor

from components.interfaces import (
    AnswerOption,
    Answers,
    DecodingSettings,
    LanguageState,
    Streamer,
    TextInputs,
    VisualTokens,
)
from components.language.answer_tokens import AnswerRecorder, TokenChooser
from components.language.cached_network import CachedNetwork, CallInputs, real_at_end
from components.language.chat import ChatFormat
from components.language.chat_text import PlainTurn
from components.language.kv_cache import can_move_rows, forked, prepare_to_move_rows, rearranged
from components.language.probe import evaluation_mode
from components.language.shared_prefix import SharedPrefixes, find_shared_prefixes, token_codes
from components.language.splice import splice
from components.language.text_limits import TextLimits
from components.question_text import before_answer, padded_prompts, without_answers


class CachedLanguageModel(CachedNetwork):
    """A language model that reads prompts into a state and answers from there.

    Write ``_embed``, ``_call``, ``_new_cache`` and ``forward``, and set the attributes.

    Attributes:
        chat: Converts turns to ids and ids to text.
        limits: Refuses conversations that are too long.
    """

    weight_reading_methods = (*CachedNetwork.weight_reading_methods, "answer_and_score")

    chat: ChatFormat
    limits: TextLimits

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embed ids ``[C, K]``. The placeholder's negative id gets any embedding, which the splice replaces."""
        return self._embed(input_ids)

    def question_words(self, text: TextInputs) -> list[str]:
        """Read the words of every conversation's question back from its ids; see ``LanguageModel.question_words``."""
        asked = before_answer(text)
        return [self.chat.question_of(ids[real].tolist()) for ids, real in zip(text.input_ids, asked, strict=True)]

    def prompts(self, questions: Sequence[str | Sequence[tuple[str, str]]]) -> TextInputs:
        """Convert questions to prompts; see ``LanguageModel.prompts``.

        Raises:
            ValueError: There is no question, or the template drops or repeats the placeholder of the visual tokens.
        """
        asked = (each if isinstance(each, str) else [PlainTurn(*turn) for turn in each] for each in questions)
        return padded_prompts(list(map(self.chat.prompt_ids, asked)), self.chat.pad_id)

    def next_prompts(self, conversations: Sequence[Sequence[tuple[str, str]]]) -> TextInputs:
        """Convert the next questions of conversations to what ``extend`` reads; see ``LanguageModel.next_prompts``.

        Raises:
            ValueError: There is no conversation, the template cannot render the turns, or they do not end with a
                question after an answer.
        """
        turns = [[PlainTurn(*turn) for turn in conversation] for conversation in conversations]
        return padded_prompts([self.chat.next_prompt_ids(each) for each in turns], self.chat.pad_id)

    @torch.no_grad()
    def prefill(self, visual: VisualTokens, text: TextInputs, room: int = 0) -> LanguageState:
        """Read conversations; see ``LanguageModel.prefill``.

        Raises:
            ValueError: Text and videos are out of step, or a conversation is longer than the context.
        """
        with evaluation_mode(self):
            return self._prefill(visual, text, [room] * len(text.input_ids))

    @torch.no_grad()
    def extend(self, state: LanguageState, text: TextInputs, visual: VisualTokens | None = None) -> LanguageState:
        """Read more tokens of every conversation; see ``LanguageModel.extend``.

        Raises:
            ValueError: The number of conversations differs, one has no new token, text and visual tokens are out of
                step, or a conversation becomes longer than the context.
        """
        if visual is None:
            visual = VisualTokens(state.logits.new_zeros(1, 1, self.dim), state.logits.new_zeros(1, 1).bool())
        with evaluation_mode(self):
            inputs = splice(visual, text, self._embed(text.input_ids))
            counts: list[int] = inputs.mask.sum(dim=1).tolist()
            if len(counts) != len(state.lengths) or 0 in counts:
                raise ValueError(
                    f"{len(state.lengths)} conversations continue with {counts} tokens; every one needs at least one"
                )
            self.limits.check_lengths(state.lengths, counts)
            return self._append(state._replace(cache=forked(state.cache)), inputs.embeddings, counts)

    @torch.no_grad()
    def decode(self, state: LanguageState, settings: DecodingSettings, streamer: Streamer | None = None) -> Answers:
        """Answer; see ``LanguageModel.decode``.

        Raises:
            ValueError: A conversation would become longer than the context, there are several seeds but not one for
                each conversation, or several conversations share a cache whose rows cannot be moved.
        """
        self.limits.check_lengths(state.lengths, [settings.max_new_tokens] * len(state.lengths))
        cache = forked(state.cache)
        if len(state.lengths) > 1:
            prepare_to_move_rows(cache)
        with evaluation_mode(self):
            return self._decode(state._replace(cache=cache), settings, streamer, reads_all=True)

    @torch.no_grad()
    def score(self, state: LanguageState, options: Sequence[Sequence[AnswerOption]]) -> list[Tensor]:
        """Score answer options; see ``LanguageModel.score``.

        Raises:
            ValueError: A conversation has no options, or becomes longer than the context.
        """
        answers = self._option_ids(options, len(state.lengths))
        self.limits.check_lengths(state.lengths, [max(map(len, each)) for each in answers])
        with evaluation_mode(self):
            return self._score(state, answers)

    @torch.no_grad()
    def generate(self, visual: VisualTokens, text: TextInputs, max_new_tokens: int) -> list[str]:
        """Generate answers by greedy decoding. The prompt is the text before a conversation's first labelled token.

        An answer ends at the token with which the chat template ends a turn, at an end-of-sequence token of tokenizer
        or generation config, or after ``max_new_tokens``.

        Args:
            visual: Visual tokens of the batch's videos.
            text: The conversations.
            max_new_tokens: Length limit of an answer.

        Returns:
            One answer per conversation, without special tokens and surrounding white space.

        Raises:
            ValueError: A prompt is shorter than two tokens, text and videos are out of step, or a conversation is
                longer than the context.
        """
        settings = DecodingSettings(max_new_tokens)
        with evaluation_mode(self):
            state = self._prefill(*without_answers(visual, text), [max_new_tokens] * len(text.input_ids))
            return self._decode(state, settings, None, reads_all=False).texts

    @torch.no_grad()
    def score_options(
        self, visual: VisualTokens, text: TextInputs, options: Sequence[Sequence[AnswerOption]]
    ) -> list[Tensor]:
        """Mean log likelihood per token of every answer option, including the token that ends the turn.

        The keys and values of a prompt are computed once for all of its options.

        Args:
            visual: Visual tokens of the batch's videos.
            text: The conversations; their own answers are ignored.
            options: Answer options of every conversation: C lists with at least one option each.

        Returns:
            One float32 tensor ``[number of options]`` per conversation, values at most 0.

        Raises:
            ValueError: A conversation has no options, a prompt is shorter than two tokens, text and videos are out of
                step, or a conversation is longer than the context.
        """
        answers = self._option_ids(options, len(text.input_ids))
        with evaluation_mode(self):
            state = self._prefill(*without_answers(visual, text), [max(map(len, each)) for each in answers])
            return self._score(state, answers)

    @torch.no_grad()
    def answer_and_score(
        self, visual: VisualTokens, text: TextInputs, max_new_tokens: int, options: Sequence[Sequence[AnswerOption]]
    ) -> tuple[list[str], list[Tensor]]:
        """What ``generate`` and ``score_options`` give, from one reading of the prompts.

        Args:
            visual: Visual tokens of the batch's videos.
            text: The conversations; a prompt is the text before the first labelled token.
            max_new_tokens: Length limit of an answer.
            options: Answer options of every conversation: C lists with at least one option each.

        Returns:
            One answer per conversation, and one float32 tensor ``[number of options]`` per conversation.

        Raises:
            ValueError: See ``generate`` and ``score_options``.
        """
        answers = self._option_ids(options, len(text.input_ids))
        rooms = [max(max_new_tokens, *map(len, each)) for each in answers]
        with evaluation_mode(self):
            state = self._prefill(*without_answers(visual, text), rooms)
            scores = self._score(state, answers)  # first, because decoding changes the state's cache
            return self._decode(state, DecodingSettings(max_new_tokens), None, reads_all=False).texts, scores

    def _option_ids(self, options: Sequence[Sequence[AnswerOption]], num_conversations: int) -> list[list[list[int]]]:
        """Ids of the options of every conversation."""
        counts = [len(each) for each in options]
        if len(counts) != num_conversations or 0 in counts:
            raise ValueError(
                f"{num_conversations} conversations with {counts} options; every one needs at least one option"
            )
        return [
            [self.chat.answer_ids(option) if isinstance(option, str) else list(option) for option in each]
            for each in options
        ]

    def _prefill(self, visual: VisualTokens, text: TextInputs, rooms: Sequence[int]) -> LanguageState:
        """Read conversations in one call of the network, or in two: first the beginnings that several share."""
        # Once: both ``splice`` and ``token_codes`` read them on the host.
        text, visual = TextInputs(*(field.cpu() for field in text)), visual._replace(mask=visual.mask.cpu())
        inputs = splice(visual, text, self._embed(text.input_ids))
        lengths: list[int] = inputs.mask.sum(dim=1).tolist()
        self.limits.check_lengths(lengths, rooms, num_visual=visual.mask.shape[1])
        shared = self._shared_prefixes(visual, text, lengths)
        if shared is None:
            if self._largest_of_all_ranks(1) > 1:
                self._call(self._idle_inputs())
            return self._read_first(inputs.embeddings, lengths)
        self._largest_of_all_ranks(2)
        prefix = self._read_first(inputs.embeddings[shared.first], shared.lengths)
        starts = [shared.lengths[group] for group in shared.group]
        counts = [length - start for length, start in zip(lengths, starts, strict=True)]
        columns = torch.tensor(starts)[:, None] + torch.arange(max(counts))
        columns = columns.clamp(max=inputs.embeddings.shape[1] - 1).to(inputs.embeddings.device, non_blocking=True)
        rests = inputs.embeddings.gather(1, columns[..., None].expand(-1, -1, inputs.embeddings.shape[-1]))
        state = LanguageState(rearranged(prefix.cache, shared.group), tuple(starts), prefix.logits)
        return self._append(state, rests, counts)

    def _shared_prefixes(self, visual: VisualTokens, text: TextInputs, lengths: list[int]) -> SharedPrefixes | None:
        if len(lengths) == 1 or min(lengths) < 2 or not can_move_rows(self._new_cache()):
            return None
        return find_shared_prefixes(token_codes(visual, text), lengths)

    def _decode(
        self, state: LanguageState, settings: DecodingSettings, streamer: Streamer | None, *, reads_all: bool
    ) -> Answers:
        """Answer; changes the state's cache.

        Every rank runs until the answers of all ranks have finished. A rank whose answers have finished makes idle
        calls.

        Args:
            state: What was read.
            settings: How to decode.
            streamer: Gets the tokens.
            reads_all: Read the last token too, so that the state can be continued. Otherwise it must not be used.
        """
        num_rows, device = len(state.lengths), state.logits.device
        chooser = TokenChooser(settings, num_rows)
        answers = AnswerRecorder(self.chat, settings, num_rows, streamer)
        rows = torch.arange(num_rows, device=device)
        before = torch.tensor(state.lengths, device=device)[:, None]
        mask, logits, num_read = real_at_end(state.lengths, device), state.logits, 0
        while True:
            reads = False
            if not answers.has_finished:
                chosen = chooser.choose(logits)
                answers.add(chosen.tolist())
                reads = not all(answers.ended) and (reads_all or not answers.has_finished)
            if not self._largest_of_all_ranks(int(reads)):
                break
            if not reads:
                self._idle_embed()
                self._call(self._idle_inputs())
                continue
            goes_on = ~torch.tensor(answers.ended).to(device, non_blocking=True)[:, None]
            mask = torch.cat([mask, goes_on], dim=1)
            embeddings = self._embed(chosen[:, None])
            inputs = CallInputs(embeddings, mask, before + num_read, state.cache, rows, torch.zeros_like(rows))
            logits = torch.where(goes_on, self._call(inputs), logits)
            num_read += 1
        counts = [len(ids) for ids in answers.token_ids]
        lengths = tuple(old + new for old, new in zip(state.lengths, counts, strict=True))
        if reads_all and num_rows > 1:
            shifts = [num_read - count for count in counts]
            state = state._replace(cache=rearranged(state.cache, range(num_rows), shifts, max(lengths)))
        return Answers(answers.texts(), answers.token_ids, LanguageState(state.cache, lengths, logits))
