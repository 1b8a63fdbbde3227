"""Reads the tables that benchmarks print."""


def rows_of(text: str) -> dict[str, list[str]]:
    """Cells of every row of the printed tables by the first one; the header is a row too."""
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return {first.strip(): [cell.strip() for cell in cells] for first, *cells in lines}
