"""Reads the tables that benchmarks print."""


def all_rows(text: str) -> list[list[str]]:
    """Cells of every row of the printed tables; the header is a row too."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def rows_of(text: str) -> dict[str, list[str]]:
    """Cells of every row of the printed tables by the first one; of equal first cells the last row."""
    return {first: cells for first, *cells in all_rows(text)}
