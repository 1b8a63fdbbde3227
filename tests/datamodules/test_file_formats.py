import pytest

from datamodules.file_formats import HEAD_BYTES, format_of
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
