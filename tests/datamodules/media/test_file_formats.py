import io

import pytest

from datamodules.errors import BrokenMediaError
from datamodules.media.file_formats import HEAD_BYTES, format_of
from datamodules.media.video_container import check_container
from tests.fixtures_data import make_clip, make_gif, make_image


@pytest.mark.parametrize(
    ("container", "codec", "name"),
    [
        ("mp4", "libx264", "MP4"),
        ("mov", "libx264", "MOV"),
        ("matroska", "libx264", "MKV"),
        ("webm", "libvpx", "WEBM"),
        ("avi", "mpeg4", "AVI"),
        ("asf", "wmv2", None),
    ],
)
def test_videos_are_told_apart(container: str, codec: str, name: str | None) -> None:
    assert format_of(make_clip(2, container=container, codec=codec)[:HEAD_BYTES]) == name


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
def test_pictures_are_told_apart(form: str) -> None:
    assert format_of(make_image(form=form)[:HEAD_BYTES]) == form.upper()
    assert format_of(make_gif(2)[:HEAD_BYTES]) == "GIF"


@pytest.mark.parametrize("head", [b"", b"G", b"RIFF", b"\0" * HEAD_BYTES, b"plain words", b"\xff\xff\xff"])
def test_other_bytes_have_no_format(head: bytes) -> None:
    assert format_of(head) is None


@pytest.mark.parametrize("box", [b"ftypqt  ", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"])
def test_every_first_box_of_a_film_is_known_to_reader_and_converter(box: bytes) -> None:
    head = b"\0\0\0\x20" + box + bytes(HEAD_BYTES)
    assert format_of(head[:HEAD_BYTES]) == "MOV"
    check_container(io.BytesIO(head), "film")


def test_a_picture_called_a_video_is_refused_by_its_format() -> None:
    with pytest.raises(BrokenMediaError, match="it is JPEG"):
        check_container(io.BytesIO(make_image(form="jpeg")), "film")
