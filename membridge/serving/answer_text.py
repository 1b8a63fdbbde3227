"""Passes the text of an answer on as it comes, and ends the answer at a stop text."""

from collections.abc import Callable

from components.interfaces import NewTokens
from membridge.serving.worker_thread import CancelFlag


class StopTextError(Exception):
    """A stop text has been written, so the answer ends."""


class AnswerText:
    """A streamer that collects the text of one answer.

    Args:
        stop: Texts before which the answer ends.
        flag: Ends the answer when nobody waits for it.
        on_text: Gets each new piece of text that no stop text can take back; None: nobody follows.

    Attributes:
        text: What was passed on so far. If ``StopTextError`` was raised, the answer.
        num_tokens: Tokens so far, those of the stop text included.
    """

    def __init__(self, stop: tuple[str, ...], flag: CancelFlag, on_text: Callable[[str], None] | None) -> None:
        self.text = ""
        self.num_tokens = 0
        self._stop = stop
        self._flag = flag
        self._on_text = on_text
        self._held = ""  # may be the beginning of a stop text

    def __call__(self, tokens: NewTokens) -> None:
        """Take the next token.

        Raises:
            AnswerCancelledError: Nobody waits for the answer.
            StopTextError: A stop text is complete.
        """
        self._flag.check()
        has_ended = tokens.ids[0] is None
        self.num_tokens += not has_ended
        self._held += tokens.texts[0]
        found = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            self._pass_on(self._held[: min(found)])
            raise StopTextError
        keep = 0 if has_ended else max((_overlap(self._held, stop) for stop in self._stop), default=0)
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        self._pass_on(certain)

    def _pass_on(self, text: str) -> None:
        self.text += text
        if text and self._on_text is not None:
            self._on_text(text)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that is a beginning of the stop text."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
