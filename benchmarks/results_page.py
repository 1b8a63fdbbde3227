"""Sections of the results page that a command writes, each between two marks of its own."""

from collections.abc import Sequence

SUMMARY = ("what was measured", "figure", "command", "device", "date", "section")
"""Columns of the table at the top of the page."""


def marks(name: str) -> tuple[str, str]:
    """The lines before and after the section of this name."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def replace_section(page: str, name: str, section: str) -> str:
    """Put the section between its marks, at the end of the page where it has none yet.

    Args:
        page: Markdown page.
        name: Of the section.
        section: New text between the marks.

    Raises:
        ValueError: Only one mark is there, or they are in the wrong order, so where the section ends is unknown.
    """
    begin, end = marks(name)
    marked = f"{begin}\n{section}\n{end}\n"
    if begin not in page and end not in page:
        return f"{page.rstrip()}\n\n{marked}" if page.strip() else marked
    if not 0 <= page.find(begin) < page.find(end):
        raise ValueError(
            f"the page must have {begin!r} and then {end!r}, or neither; correct the page and write the report again"
        )
    before, rest = page.split(begin, 1)
    return before + marked + rest.split(end, 1)[1].removeprefix("\n")


def replace_summary(page: str, anchor: str, *, figure: str, device: str, made: str) -> str:
    """Put a section's new figure into its row of the table at the top of the page.

    Args:
        page: Markdown page.
        anchor: Of the section's heading. The row is the one that links to it; without such a row, as on a page that
            has no table at the top, the page stays as it is.
        figure: The section's main figure.
        device: What it was measured on.
        made: Date of the measurement.

    Raises:
        ValueError: The row does not have the table's six columns.
    """
    lines = page.split("\n")
    for number, line in enumerate(lines):
        if line.startswith("|") and f"(#{anchor})" in line:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) != len(SUMMARY):
                raise ValueError(f"the row that links to #{anchor} must have the columns {', '.join(SUMMARY)}: {line}")
            measured, _, command, *_, link = cells
            lines[number] = "| " + " | ".join([measured, figure, command, device, made, link]) + " |"
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
