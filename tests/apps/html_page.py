"""Reads the HTML page of a test."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from PIL import Image


class Element(NamedTuple):
    """A start tag of a page."""

    tag: str
    attributes: dict[str, str]


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[Element] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of_class(self, name: str) -> list[Element]:
        return [each for each in self.elements if name in each.attributes.get("class", "").split()]

    @property
    def pictures(self) -> list[Image.Image]:
        urls = [each.attributes["src"] for each in self.elements if each.tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
