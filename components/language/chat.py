"""What a tokenizer's chat template says about answers: how one is written down, and where it ends."""

from collections.abc import Sequence
from typing import Any

from components.interfaces import VIDEO_PLACEHOLDER

_PROBE = "answer"
_VIDEO_MARK = "<video>"


class ChatFormat:
    """Turns answers into token ids, as training conversations hold them, and generated ids back into answers.

    Args:
        tokenizer: A fast Hugging Face tokenizer with a chat template.
        more_stop_ids: Ids that end a generation besides the template's own, such as those of a generation config.

    Attributes:
        end_of_turn_id: The first special token that the template writes after an answer.
        stop_ids: Every id that ends a generation.
        pad_id: Id for padding.

    Raises:
        ValueError: There is no chat template, no special token ends an assistant's turn in it (such a model could
            neither learn nor be told when to stop), or the tokenizer loses letters of plain text.
    """

    def __init__(self, tokenizer: Any, more_stop_ids: Sequence[int] = ()) -> None:
        if tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; put a chat_template.jinja into its "
                "folder (the same one that the training conversations are written with)"
            )
        self.tokenizer = tokenizer
        added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special_ids = {*added, *tokenizer.all_special_ids, *more_stop_ids}
        *word_ids, self.end_of_turn_id = self.answer_ids(_PROBE)
        read_back = tokenizer.decode(word_ids).strip()
        if not read_back.endswith(_PROBE) and tokenizer.unk_token_id not in word_ids:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r}, loaded as {type(tokenizer).__name__}, reads {_PROBE!r} "
                f"as {read_back!r}: its tokenizer.json is of another kind than transformers takes for this model_type; "
                "use the model type's own kind of tokenizer, or a model type that leaves the choice (such as llama)"
            )
        eos_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.stop_ids = sorted({self.end_of_turn_id, *eos_ids, *more_stop_ids})
        self.pad_id: int = self.end_of_turn_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of a question up to where the answer begins, VIDEO_PLACEHOLDER where the visual tokens belong.

        Args:
            question: What the user says; ``<video>`` marks the visual tokens' place, which is in front by default.

        Raises:
            ValueError: The template does not show the mark exactly once.
        """
        content = question if _VIDEO_MARK in question else _VIDEO_MARK + question
        turn = {"role": "user", "content": content}
        prompt: str = self.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        pieces = prompt.split(_VIDEO_MARK)
        if len(pieces) != 2:
            raise ValueError(
                f"{self._source} writes {prompt!r}, in which {_VIDEO_MARK} stands {len(pieces) - 1} times; exactly one "
                "is needed to place the visual tokens"
            )
        # The template has written the special tokens. The mark itself is never tokenised.
        before, after = (self.tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces)
        return [*before, VIDEO_PLACEHOLDER, *after]

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer, up to and including the token that ends the turn.

        The answer is tokenised inside the template, since the text before it decides how its first letters are cut.

        Args:
            answer: What the assistant says.

        Returns:
            At least one id.

        Raises:
            ValueError: The template does not show the answer as it is, or ends the turn without a special token.
        """
        prompt, turn = self._render(answer)
        place = turn.find(answer.strip())
        if place < 0:
            raise ValueError(f"{self._source} does not show the answer {answer!r} as it is: {turn!r}")
        answer_end = len(prompt) + place + len(answer.strip())
        encoded = self.tokenizer(prompt + turn, add_special_tokens=False, return_offsets_mapping=True)
        ids = []
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if end > len(prompt):
                ids.append(token)
                if start >= answer_end and token in self._special_ids:
                    return ids
        raise ValueError(
            f"{self._source} ends an assistant's turn without a special token: {turn!r}. Generation could not stop; "
            f"let the template write one, such as {self.tokenizer.eos_token or '<|im_end|>'!r}, after every answer"
        )

    def decode(self, generated_ids: Sequence[int]) -> str:
        """Text of a generated answer: up to the first id that stops, without special tokens, stripped."""
        stop = next((place for place, token in enumerate(generated_ids) if token in self.stop_ids), len(generated_ids))
        text: str = self.tokenizer.decode(generated_ids[:stop], skip_special_tokens=True)
        return text.strip()

    def _render(self, answer: str) -> tuple[str, str]:
        """Everything before the assistant's turn, and the turn as the template writes it."""
        question = {"role": "user", "content": "question"}
        prompt: str = self.tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
        conversation: str = self.tokenizer.apply_chat_template(
            [question, {"role": "assistant", "content": answer}], tokenize=False
        )
        if not conversation.startswith(prompt):
            raise ValueError(
                f"{self._source} writes {prompt!r} to ask for an answer, but {conversation!r} where one is given; the "
                "second must begin with the first"
            )
        return prompt, conversation[len(prompt) :]

    @property
    def _source(self) -> str:
        return f"the chat template of {self.tokenizer.name_or_path!r}"
