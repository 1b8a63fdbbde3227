"""Collects what is wrong with a set-up, so that all of it is said at once."""

from collections.abc import Iterator
from contextlib import contextmanager


class Problems:
    """What was found wrong so far."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Note a ``ValueError`` of the lines inside in place of raising it; what follows it there is left out."""
        try:
            yield
        except ValueError as error:
            self.found.append(str(error))

    def refuse(self, subject: str) -> None:
        """Raise what was found.

        Args:
            subject: What is wrong, for the message.

        Raises:
            ValueError: Something was found.
        """
        if len(self.found) == 1:
            raise ValueError(f"{subject}: {self.found[0]}")
        if self.found:
            listed = "; ".join(f"({number}) {problem}" for number, problem in enumerate(self.found, 1))
            raise ValueError(f"{subject}: {len(self.found)} things are wrong: {listed}")
