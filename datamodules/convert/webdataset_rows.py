"""Reads the samples of other projects' WebDataset tars as rows.

The ``webdataset`` library groups members into samples and reads the texts. A sample is the members that are side by
side and have the same name up to the first dot of the base name. The library's decoders are never used, because some of
them unpickle. Only the JSON or text member is opened here; ``tar_contents`` copies media when they are needed.

- ``KEY.json`` with ``conversations``, ``messages`` or ``QA`` is read as a row of a JSON file is.
- ``KEY.txt``, or the field ``caption`` or ``text`` of ``KEY.json``, is a caption: the user's turn is ``<video>`` alone,
  and the answer is the caption.
- The media member is the row's media, whatever path its JSON names. Several are numbered: ``KEY.0.jpg``, ``KEY.1.mp4``.

Source: the layouts of LLaVA-style exports, img2dataset and video2dataset.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from datamodules.convert.media_paths import ending_of, is_media_ending, usual_field
from datamodules.convert.row_fields import MEDIA_FIELDS, OTHER_MEDIA_FIELDS, shown
from datamodules.convert.row_media import named_media
from datamodules.convert.row_problems import Reason, RowProblem, unforeseen
from datamodules.convert.rows import TURN_FIELDS, Row, llava_row, pllava_row
from datamodules.convert.tar_contents import Member, read_contents
from datamodules.shards.schema import MAX_JSON_BYTES

_CAPTION_FIELDS = ("caption", "text")
_NUMBERED = re.compile(r"([0-9]{1,9})\.\w+", re.ASCII)


class WebDatasetSample(NamedTuple):
    """One sample of a tar."""

    fields: dict[str, Any]  # of its JSON; with ``conversations`` where a caption was found
    media: tuple[str, ...]  # names of its media members, in their order
    unread: tuple[str, ...] = ()  # members that are not opened, as ``member .ENDING``


def read_webdataset(path: Path, advance: Callable[[int], object] = lambda num_bytes: None) -> Iterator[Any]:
    """Yield every sample of a tar in its order, or a ``RowProblem`` for a sample that cannot be used.

    Args:
        path: The tar.
        advance: Called with the number of bytes read or skipped since the last call.

    Yields:
        A ``WebDatasetSample`` or a ``RowProblem``; at the end one more ``RowProblem`` if the tar itself is damaged.
    """
    from webdataset.tariterators import base_plus_ext, group_by_keys  # it imports torch, which takes seconds

    members, damage, size, _ = read_contents(path)
    files = ({"fname": member.name, "data": member, "__url__": str(path)} for member in members)
    twice: list[Exception] = []  # members of one sample with the same ending, which the library drops
    passed = 0
    if members:
        with path.open("rb") as tar:
            for group in group_by_keys(files, handler=_noted(twice)):
                by_ending = {ending: member for ending, member in group.items() if not ending.startswith("__")}
                yield _sample(group["__key__"], by_ending, tar, is_double=bool(twice))
                twice.clear()
                end = max((member.start + member.size for member in by_ending.values()), default=passed)
                advance(end - passed)
                passed = end
    for member in members:  # without a dot in its name it belongs to no sample
        if member.problem is not None and base_plus_ext(member.name)[0] is None:
            yield member.problem
    if damage is not None:
        yield damage
    advance(size - passed)


def webdataset_row(sample: WebDatasetSample) -> Row:
    """Convert a sample to a conversation, as if a JSON file had named its media.

    Raises:
        RowProblem: The sample cannot be used.
    """
    fields = dict(sample.fields)
    named = named_media(fields)
    if not sample.media and named:
        raise RowProblem(
            Reason.MISSING, f"the JSON names {shown(next(iter(named)))}, but no media member of its key is beside it"
        )
    if sample.media:
        if len(named) > 1 and len(named) != len(sample.media):
            raise RowProblem(
                Reason.SEVERAL_MEDIA,
                f"the JSON names {len(named)} images or videos, but {len(sample.media)} of its key are beside it",
            )
        by = [name[: len("image")] for names in named.values() for name in names if name.startswith(("image", "video"))]
        for name in (*MEDIA_FIELDS, *OTHER_MEDIA_FIELDS):
            fields.pop(name, None)
        fields[_field(sample.media, by)] = list(sample.media)
    row = pllava_row(fields) if fields.get("QA") is not None else llava_row(fields)
    return row._replace(unread=tuple(sorted({*row.unread, *sample.unread})))


def _field(media: Sequence[str], by: Sequence[str]) -> str:
    """The field that names these members in a row of a JSON file, given those that name them in the sample's JSON."""
    found = list(dict.fromkeys(by or map(usual_field, media)))
    return found[0] if len(media) == 1 or len(found) == 1 else "media"


def _noted(errors: list[Exception]) -> Callable[[Exception], bool]:
    """An error handler for the library: it stores the error and continues."""

    def note(error: Exception) -> bool:
        errors.append(error)
        return True

    return note


def _sample(
    key: str, members: Mapping[str, Member], tar: BinaryIO, *, is_double: bool
) -> WebDatasetSample | RowProblem:
    try:
        for member in members.values():
            if member.problem is not None:
                return member.problem
        if is_double:
            return RowProblem(Reason.MALFORMED, f"sample {key!r} has members with the same ending; rename one of them")
        return _read_sample(key, members, tar)
    except RowProblem as problem:
        return problem
    except Exception as error:  # a tar may hold any bytes: an unexpected error costs its own sample only
        return unforeseen(f"sample {key!r}", error)


def _read_sample(key: str, members: Mapping[str, Member], tar: BinaryIO) -> WebDatasetSample:
    media = _media(key, members)
    fields = _fields(_text(members["json"], tar), key) if "json" in members else {}
    read = {"json"}
    if not any(fields.get(name) is not None for name in (*TURN_FIELDS, "QA")):
        if "txt" in members:
            read.add("txt")
            caption: Any = _text(members["txt"], tar).strip()
        else:
            name = next((name for name in _CAPTION_FIELDS if isinstance(fields.get(name), str)), None)
            if name is None:
                raise _no_text(key, members, fields)
            caption = fields.pop(name)
        asked = "\n".join(["<video>"] * len(media))
        fields["conversations"] = [{"from": "human", "value": asked}, {"from": "gpt", "value": caption}]
    unread = [
        f"member .{ending}" for ending, member in members.items() if ending not in read and member.name not in media
    ]
    return WebDatasetSample(fields, media, tuple(unread))


def _media(key: str, members: Mapping[str, Member]) -> tuple[str, ...]:
    """Names of the media members of a sample, in the order of their numbers if there are several."""
    found = {ending: member.name for ending, member in members.items() if is_media_ending(ending_of(member.name))}
    if len(found) < 2:
        return tuple(found.values())
    number_of = {ending: int(number[1]) for ending in found if (number := _NUMBERED.fullmatch(ending))}
    ordered = sorted(found, key=lambda ending: number_of.get(ending, -1))
    first = number_of.get(ordered[0], -1)
    if first not in (0, 1) or [number_of[ending] for ending in ordered] != list(range(first, first + len(found))):
        raise RowProblem(
            Reason.SEVERAL_MEDIA,
            f"sample {key!r} has {len(found)} media members ({', '.join(found)[:200]}); number them without gaps, such "
            "as .0.jpg and .1.jpg",
        )
    return tuple(found[ending] for ending in ordered)


def _no_text(key: str, members: Mapping[str, Member], fields: Mapping[str, Any]) -> RowProblem:
    has = ", ".join(f".{ending}" for ending in sorted(members)[:10])
    if "json" not in members:
        return RowProblem(Reason.MALFORMED, f"sample {key!r} has no .json and no .txt member; it has {has[:200]}")
    names = ", ".join(sorted(fields)[:10]) or "no field"
    expected = ", ".join(map(repr, (*TURN_FIELDS, "QA", *_CAPTION_FIELDS)))
    return RowProblem(
        Reason.MALFORMED, f"sample {key!r}: expected one of {expected} in its JSON, or a .txt; it has {names[:200]}"
    )


def _text(member: Member, tar: BinaryIO) -> str:
    """The text of a member, read by the library from the member's header on."""
    from webdataset.tariterators import tar_file_iterator

    if member.size > MAX_JSON_BYTES:
        raise RowProblem(
            Reason.MALFORMED, f"member {member.name!r} has {member.size} bytes, more than the {MAX_JSON_BYTES} of a row"
        )
    tar.seek(member.header)
    found = next(tar_file_iterator(tar, skip_meta=None))
    try:
        return str(found["data"].decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RowProblem(
            Reason.ENCODING, f"member {member.name!r} is not UTF-8 (byte {error.start}); write it again as UTF-8"
        ) from error


def _fields(text: str, key: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowProblem(Reason.MALFORMED, f"sample {key!r}: its JSON cannot be read: {error}") from error
    if isinstance(document, list):  # the turns alone
        return {"conversations": document}
    if not isinstance(document, dict):
        raise RowProblem(Reason.MALFORMED, f"sample {key!r}: its JSON must be an object, got {shown(document)}")
    return document
