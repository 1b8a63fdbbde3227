"""Numbers in messages."""


def count_of(number: int, noun: str) -> str:
    """A number with its noun in the right form: ``1 row``, ``8,213 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
