"""Reads JSON files of checkpoints and models, with an error that names a damaged file."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ValueError: It is no JSON, such as a file that was copied in part.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and the others do not name the file
        raise ValueError(f"{path} is damaged, for it is no JSON ({error}): copy its folder again") from error
