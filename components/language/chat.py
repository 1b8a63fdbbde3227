"""What a tokenizer's chat template says about answers: how one is written down, and where it ends."""

from collections.abc import Sequence
from typing import Any

_PROBE = "answer"


class ChatFormat:
    """Turns answers into token ids, as training conversations hold them, and generated ids back into answers.

    Args:
        tokenizer: A fast Hugging Face tokenizer with a chat template.
        more_stop_ids: Ids that end a generation besides the template's own, such as those of a generation config.

    Raises:
        ValueError: There is no chat template, or no special token ends an assistant's turn in it: such a model could
            neither learn nor be told when to stop.
    """

    def __init__(self, tokenizer: Any, more_stop_ids: Sequence[int] = ()) -> None:
        if tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; put a chat_template.jinja into its "
                "folder (the same one that the training conversations are written with)"
            )
        self.tokenizer = tokenizer
        self.end_of_turn_id = self._find_end_of_turn({*tokenizer.all_special_ids, *more_stop_ids})
        eos_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.stop_ids = sorted({self.end_of_turn_id, *eos_ids, *more_stop_ids})
        self.pad_id: int = self.end_of_turn_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer, up to and including the token that ends the turn.

        The answer is tokenised inside the template, since the text before it decides how its first letters are cut.

        Args:
            answer: What the assistant says.

        Returns:
            At least one id.
        """
        ids = [token for token, _ in self._turn_tokens(answer)]
        last_end = len(ids) - 1 - ids[::-1].index(self.end_of_turn_id)
        return ids[: last_end + 1]

    def decode(self, generated_ids: Sequence[int]) -> str:
        """Text of a generated answer: up to the first id that stops, without special tokens, stripped."""
        stop = next((place for place, token in enumerate(generated_ids) if token in self.stop_ids), len(generated_ids))
        text: str = self.tokenizer.decode(generated_ids[:stop], skip_special_tokens=True)
        return text.strip()

    def _find_end_of_turn(self, special_ids: set[int]) -> int:
        """The first special token that the template writes after an answer."""
        prompt, turn = self._turn(_PROBE)
        answer_end = len(prompt) + turn.rindex(_PROBE) + len(_PROBE)
        ends = [token for token, start in self._turn_tokens(_PROBE) if start >= answer_end and token in special_ids]
        if not ends:
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path!r} ends an assistant's turn without a special "
                f"token: {turn!r}. Generation could not stop; let the template write one, such as "
                f"{self.tokenizer.eos_token or '<|im_end|>'!r}, after every answer"
            )
        return ends[0]

    def _turn_tokens(self, answer: str) -> list[tuple[int, int]]:
        """Id and first character of every token of the assistant's turn."""
        prompt, turn = self._turn(answer)
        encoded = self.tokenizer(prompt + turn, add_special_tokens=False, return_offsets_mapping=True)
        return [
            (token, start)
            for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            if end > len(prompt)
        ]

    def _turn(self, answer: str) -> tuple[str, str]:
        """Everything before the assistant's turn, and the turn as the template writes it."""
        question = {"role": "user", "content": "question"}
        prompt: str = self.tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
        conversation: str = self.tokenizer.apply_chat_template(
            [question, {"role": "assistant", "content": answer}], tokenize=False
        )
        if not conversation.startswith(prompt):
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path!r} writes {prompt!r} to ask for an answer, but "
                f"{conversation!r} where one is given; the second must begin with the first"
            )
        return prompt, conversation[len(prompt) :]
