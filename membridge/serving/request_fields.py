"""Reads the fields of a JSON object that a client sent, each with its type and range."""

import json
import math
from collections.abc import Collection
from typing import Any

from membridge.serving.api_errors import ApiError

_LONGEST_SHOWN = 80


def parse_json(body: bytes) -> Any:
    """Parse a body.

    Raises:
        ApiError: It is no JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(
            400, f"the body is no JSON ({why[:_LONGEST_SHOWN]}); send a JSON object", code="bad_json"
        ) from None


class Fields:
    """The fields of a JSON object. ``finish`` refuses those that nobody has read.

    Args:
        value: What should be an object.
        where: Its position in the request, such as ``messages[0]``; empty for the whole body.

    Raises:
        ApiError: It is no object.
    """

    def __init__(self, value: Any, where: str = "") -> None:
        self._where = where
        if not isinstance(value, dict):
            raise ApiError(400, f"{where or 'the body'} must be a JSON object", code="bad_request", param=where or None)
        self._values: dict[str, Any] = value
        self._read: set[str] = set()

    def path(self, name: str) -> str:
        """Position of a field in the request."""
        return f"{self._where}.{name}" if self._where else name

    def value(self, name: str) -> Any:
        """A field as it is; None if it is missing."""
        self._read.add(name)
        return self._values.get(name)

    def refuse(self, name: str, expected: str) -> ApiError:
        """The error about a field."""
        shown = json.dumps(self._values.get(name))[:_LONGEST_SHOWN]
        return ApiError(
            400, f"{self.path(name)} is {shown}; expected {expected}", code="bad_value", param=self.path(name)
        )

    def text(self, name: str, default: str | None = None) -> str:
        """A text that can be written as UTF-8; required if there is no default."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not is_writable(value):
            raise self.refuse(name, "text in valid Unicode")
        return value

    def integer(self, name: str, least: int, most: int, default: int | None = None) -> int | None:
        """A whole number in a range."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.refuse(name, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, least: float, most: float, default: float) -> float:
        """A number in a range."""
        value = self.value(name)
        if value is None:
            return default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not least <= value <= most:
            raise self.refuse(name, f"a number from {least:g} to {most:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false; false by default."""
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(name, "true or false")
        return bool(value)

    def items(self, name: str, most: int) -> list[Any]:
        """A list of at least one and at most so many items."""
        value = self.value(name)
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise self.refuse(name, f"a list of 1 to {most} items")
        return value

    def ignore(self, names: Collection[str]) -> None:
        """Accept fields that change no answer."""
        self._read.update(names)

    def only(self, name: str, *accepted: Any) -> None:
        """Accept a field only at values that ask for nothing."""
        value = self.value(name)
        if value is not None and value not in accepted:
            shown = " or ".join(json.dumps(each) for each in accepted)
            raise self.refuse(name, f"{shown}, because this server supports nothing else; leave it out")

    def finish(self) -> None:
        """Refuse the fields that were not read.

        Raises:
            ApiError: There are some.
        """
        unread = sorted(name for name, value in self._values.items() if name not in self._read and value is not None)
        if unread:
            named = ", ".join(self.path(name) for name in unread)[: 4 * _LONGEST_SHOWN]
            raise ApiError(
                400,
                f"this server does not support {named}; leave it out",
                code="unsupported_field",
                param=self.path(unread[0])[:_LONGEST_SHOWN],
            )


def is_writable(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which JSON can hold but no file and no tokenizer."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
