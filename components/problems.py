"""Collects the problems of a configuration, so that one message names them all."""

from collections.abc import Iterator
from contextlib import contextmanager


class Problems:
    """The problems that were found so far."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collect a ``ValueError`` of the lines inside instead of raising it. The lines after it are skipped."""
        try:
            yield
        except ValueError as error:
            self.found.append(str(error))

    def refuse(self, subject: str) -> None:
        """Raise one error that names all problems, if there are any.

        Args:
            subject: What is wrong, for the message.

        Raises:
            ValueError: At least one problem was found.
        """
        if len(self.found) == 1:
            raise ValueError(f"{subject}: {self.found[0]}")
        if self.found:
            listed = "; ".join(f"({number}) {problem}" for number, problem in enumerate(self.found, 1))
            raise ValueError(f"{subject}: {len(self.found)} things are wrong: {listed}")
