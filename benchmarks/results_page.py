"""Sections of the results page that a command writes, each between two marks of its own."""

from collections.abc import Sequence


def marks(name: str) -> tuple[str, str]:
    """What stands before and after the section of this name, each on a line of its own."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def replace_section(page: str, name: str, section: str) -> str:
    """Put the section between its marks, at the end of the page where it has none yet.

    Args:
        page: Markdown page.
        name: Of the section.
        section: What stands between the marks afterwards.

    Raises:
        ValueError: Only one mark is there, or they are in the wrong order, so where the section ends is unknown.
    """
    begin, end = marks(name)
    marked = f"{begin}\n{section}\n{end}\n"
    if begin not in page and end not in page:
        return f"{page.rstrip()}\n\n{marked}" if page.strip() else marked
    if not 0 <= page.find(begin) < page.find(end):
        raise ValueError(f"the page must hold {begin!r} and then {end!r}, or neither; mend it and report again")
    before, rest = page.split(begin, 1)
    return before + marked + rest.split(end, 1)[1].removeprefix("\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
