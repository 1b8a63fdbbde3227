"""Texts of a page: escaped, because they come from shards, and without what belongs to this machine alone."""

import html
import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_SIGNATURE = re.compile(r"(://[^\s?,]*)\?[^\s,]*")


def escaped(text: str) -> str:
    """The text as HTML, for content and for attributes; control characters are replaced."""
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n")))


def without_credentials(text: str) -> str:
    """A message or name without what gives access to a url in it: user and signature. A page may be passed on."""
    return _SIGNATURE.sub(r"\1", _USER.sub("", text))


def message(text: str) -> str:
    """A message about a shard or sample, as HTML."""
    return escaped(without_credentials(text))


def size(num_bytes: float) -> str:
    """Such as ``1.2 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}" if num_bytes < 100 else f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"
