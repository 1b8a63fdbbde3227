"""The names of a shard's members: sample key and ending, as WebDataset splits them.

A sample has one JSON member and its media:

    cat.json    cat.mp4                 one video (or picture, or array, or cached features)
    two.json    two.0.jpg  two.1.mp4    several media, numbered from 0 without gaps
    text.json                           text only

The ending of ``two.0.jpg`` is ``0.jpg``, because it starts at the first dot.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from datamodules.errors import MembersError, ShardError

VIDEO_ENDINGS = frozenset({"mp4", "webm", "mkv", "mov", "avi", "gif"})
ARRAY_ENDINGS = frozenset({"npy"})
IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp"})
FEATURE_ENDINGS = frozenset({"safetensors"})
MEDIA_ENDINGS = VIDEO_ENDINGS | ARRAY_ENDINGS | IMAGE_ENDINGS | FEATURE_ENDINGS
ALLOWED_ENDINGS = MEDIA_ENDINGS | {"json"}
"""Other members are refused, because a pickle can run code when it is opened. ``npy`` is read without pickle."""

MAX_MEDIA = 1000
"""Most media of a sample."""

_NUMBERED = re.compile(r"(0|[1-9][0-9]{0,2})\.([a-z0-9]+)")


class MediaCount(NamedTuple):
    """How many media a sample has, and whether its members are numbered."""

    num_media: int
    is_numbered: bool = False

    @classmethod
    def of(cls, endings: Sequence[str]) -> "MediaCount":
        """Count media by the endings of their members."""
        return cls(len(endings), any(_number(ending) >= 0 for ending in endings))


def check_key(key: str) -> None:
    """Refuse keys that WebDataset would read differently, or that are paths outside the shard.

    Raises:
        ValueError: The key is empty, absolute, climbs with ``..``, or has a dot after its last slash.
    """
    parts = key.split("/")
    if not parts[-1] or "." in parts[-1] or ".." in parts or key.startswith("/") or "\n" in key:
        raise ValueError(f"{key!r} cannot be a sample key; use a relative name without dots, such as 'clips/000123'")


def split_member_name(name: str, shard: str) -> tuple[str, str]:
    """Split a tar member's name into sample key and ending, as WebDataset does: at the base name's first dot.

    Raises:
        ShardError: The name is absolute, climbs with ``..`` or has an ending that is not allowed.
    """
    if name.startswith("/") or ".." in name.split("/") or name.startswith("pipe:") or not name.isprintable():
        raise ShardError(
            f"shard {shard}: member {name!r} is refused: absolute, '..', 'pipe:' and unprintable names are not read"
        )
    folder, _, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    ending = ending.lower()
    if not stem or not dot or not is_allowed(ending):
        raise ShardError(
            f"shard {shard}: member {name!r} is refused: its ending is {ending!r}, allowed are "
            f"{', '.join(sorted(ALLOWED_ENDINGS))} (an ending starts at the base name's first dot), and media with a "
            f"number from 0 to {MAX_MEDIA - 1} before it, such as '0.jpg'. "
            "Remove or convert the member; pickled members can run code and are never opened."
        )
    return (f"{folder}/{stem}" if folder else stem), ending


def is_allowed(ending: str) -> bool:
    """Whether a shard may have a member with this ending, such as ``json``, ``mp4`` or ``0.jpg``."""
    return ending in ALLOWED_ENDINGS or format_ending(ending) in MEDIA_ENDINGS


def format_ending(ending: str) -> str:
    """The ending without the number of the medium: ``jpg`` of ``0.jpg`` and of ``jpg``."""
    numbered = None if ending in ALLOWED_ENDINGS else _NUMBERED.fullmatch(ending)
    return ending if numbered is None else numbered[2]


def media_endings(endings: Iterable[str]) -> tuple[str, ...]:
    """Endings of a sample's media members, in the order of the media.

    Args:
        endings: Of all members of the sample.
    """
    return tuple(sorted((ending for ending in endings if format_ending(ending) in MEDIA_ENDINGS), key=_number))


def check_media(endings: Sequence[str], where: str) -> None:
    """Check that the media members of a sample are one without a number, or several that are numbered.

    Args:
        endings: Of the media members, in the order of the media.
        where: Key, for messages.

    Raises:
        MembersError: They are not, or cached features are beside other media.
    """
    numbers = [_number(ending) for ending in endings]
    if len(endings) > 1 and -1 in numbers:
        raise MembersError(
            f"{where}: several media members ({', '.join(endings)}); a sample has one, or several that are numbered "
            "from 0, such as 0.jpg and 1.mp4"
        )
    if numbers not in ([-1], list(range(len(numbers)))):
        raise MembersError(
            f"{where}: its media members are {', '.join(endings)}; number them from 0, each number once and none left "
            "out"
        )
    if len({format_ending(ending) in FEATURE_ENDINGS for ending in endings}) > 1:
        raise MembersError(
            f"{where}: cached features beside videos or pictures ({', '.join(endings)}); a model reads one or the "
            "other, so cache the features of all media or of none"
        )


def _number(ending: str) -> int:
    """Number of the medium with this ending; -1 without a number."""
    numbered = None if ending in ALLOWED_ENDINGS else _NUMBERED.fullmatch(ending)
    return -1 if numbered is None else int(numbered[1])
