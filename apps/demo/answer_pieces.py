"""Gives the text of an answer piece by piece to a caller that iterates, such as a web page."""

import queue
import threading
from collections.abc import Callable, Iterator

import torch

from components.interfaces import NewTokens, Streamer


class StoppedError(Exception):
    """Nobody waits for the result any longer."""


class StopSign:
    """Tells a job, in any thread, that nobody waits for it any longer."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Stop the job."""
        self._event.set()

    def check(self) -> None:
        """End the job if it is stopped.

        Raises:
            StoppedError: It is.
        """
        if self._event.is_set():
            raise StoppedError


def answer_pieces(answer: Callable[[Streamer], object], stop: StopSign) -> Iterator[str]:
    """Let a thread answer, and give each new piece of text.

    Args:
        answer: Answers, and calls the streamer with every token.
        stop: Ends the answer at the next token. It is also set when the iterator is closed.

    Raises:
        StoppedError: The answer was stopped.
        Exception: What ``answer`` raised.
    """
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    errors: list[Exception] = []

    def take(tokens: NewTokens) -> None:
        stop.check()
        pieces.put(tokens.texts[0])

    def work() -> None:
        try:
            with torch.no_grad():  # the setting belongs to the thread
                answer(take)
        except Exception as error:
            errors.append(error)
        pieces.put(None)

    thread = threading.Thread(target=work, name="answer", daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if piece:
                yield piece
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
