"""Pictures as data sets have them: under wrong names, without endings, of other formats, animated, damaged."""

import contextlib
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from datamodules.convert.prepare_media import MediaJob, Preparation
from datamodules.convert.reencode_picture import probe_image, write_animation, write_picture
from datamodules.convert.reencode_video import Reencoding
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.workers import prepare_all
from datamodules.media.decoded_frames import DecodedFrames
from datamodules.media.frame_sampling import FrameSampling, sample_frames
from datamodules.media.pictures import read_image
from datamodules.shards.shard_reader import RawSample
from tests.datamodules.convert.conversions import (
    CLIP,
    PICTURE,
    convert,
    left_out,
    llava_item,
    read_samples,
    write_json,
)
from tests.datamodules.picture_files import RGB, chunk, png, turned, upright, with_exif
from tests.fixtures_data import make_gif, make_image

PIXELS = np.random.default_rng(3).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def saved(form: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, form, **options)  # type: ignore[arg-type]
    return target.getvalue()


def animated(form: str, durations: Sequence[int] | int = 500, **options: object) -> bytes:
    """Four frames of red that grows, of which every one can be told."""
    frames = [Image.new("RGB", (32, 24), (60 * number, 0, 0)) for number in range(4)]
    target = io.BytesIO()
    frames[0].save(target, form, save_all=True, append_images=frames[1:], duration=durations, lossless=True, **options)
    return target.getvalue()


def converted(folder: Path, files: dict[str, bytes], *options: object, field: str = "image", status: int = 0) -> Path:
    """Convert one row about every file."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    rows = write_json(folder / "rows.json", [llava_item(**{field: name}) for name in files])
    convert("llava", rows, folder / "out", *options, status=status)
    return folder / "out"


def shown(sample: RawSample, num_frames: int = 1) -> DecodedFrames:
    with sample.media[0].content.open() as file:
        if sample.media[0].ending in ("jpg", "png", "webp"):
            return read_image(file)
        return sample_frames(file, FrameSampling(num_frames))


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("name", ["called.jpg", "picture", "odd.v2", "old.bmp"])
def test_pictures_of_other_formats_become_png_whatever_they_are_called(tmp_path: Path, form: str, name: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    data = saved(form)
    (sample,) = read_samples(converted(tmp_path, {name: data}))
    assert sample.media[0].ending == "png"
    assert sample.record.meta == {"media": name, "width": 32, "height": 24}
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(shown(sample).pixels[0], np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("form", "ending"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_pictures_that_shards_hold_are_stored_as_they_are_under_their_own_ending(
    tmp_path: Path, form: str, ending: str
) -> None:
    data = saved(form)
    samples = read_samples(converted(tmp_path, dict.fromkeys(["000002", "a.jpg_large", "b.gif", "c.mp4"], data)))
    assert [sample.media[0].ending for sample in samples] == [ending] * 4
    assert all(sample.media[0].content.read() == data for sample in samples)


def test_endings_of_pictures_are_tried_where_the_row_says_image_and_of_videos_where_it_says_video(
    tmp_path: Path,
) -> None:
    (tmp_path / "1.png").write_bytes(saved("PNG"))
    (tmp_path / "1.mp4").write_bytes(CLIP)
    (tmp_path / "2.gif").write_bytes(saved("GIF"))
    rows = [llava_item(image="1"), llava_item(video="1"), llava_item(image="2"), llava_item(image="3")]
    convert("llava", write_json(tmp_path / "rows.json", rows), tmp_path / "out", status=1)
    assert [sample.media[0].ending for sample in read_samples(tmp_path / "out")] == ["png", "mp4", "png"]
    assert left_out(tmp_path / "out") == [(3, "missing media")]


@pytest.mark.parametrize("form", ["WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize("name", ["tenor.webp", "tenor.gif", "tenor.mp4", "tenor"])
def test_an_animation_that_the_row_calls_a_video_becomes_one(tmp_path: Path, form: str, name: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    data = animated(form) if form != "AVIF" else animated(form, quality=100)
    (sample,) = read_samples(converted(tmp_path, {name: data}, field="video"))
    assert sample.record.meta == {"media": name, "width": 32, "height": 24, "duration_ms": 2000}
    frames = shown(sample, 4)
    assert frames.frame_ms.tolist() == [0, 500, 1000, 1500]
    assert np.abs(frames.pixels[..., 0].mean((1, 2)) - [0, 60, 120, 180]).max() <= 2
    assert frames.pixels[..., 1:].max() <= 3


def test_an_animation_keeps_uneven_times_and_frames_of_no_time_last_a_tenth_of_a_second(tmp_path: Path) -> None:
    path, target = tmp_path / "a.webp", tmp_path / "a.mkv"
    path.write_bytes(animated("WEBP", [0, 700, 20, 300]))
    write_animation(path, target, lambda: None)
    with target.open("rb") as file:
        frames = sample_frames(file, FrameSampling(fps=50, num_frames=None, max_frames=100))
    reds = frames.pixels[:, 0, 0, 0]
    changes = [int(frames.frame_ms[index]) for index in range(1, len(reds)) if reds[index] != reds[index - 1]]
    assert changes == [100, 800, 820]
    again = tmp_path / "again.mkv"
    write_animation(path, again, lambda: None)
    assert again.read_bytes() == target.read_bytes(), "equal files give equal shards"


def test_what_an_animated_png_shows_without_animation_is_no_frame_of_the_video(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("white", "red", "blue")]
    target = io.BytesIO()
    frames[0].save(target, "PNG", save_all=True, append_images=frames[1:], default_image=True, duration=200)
    (sample,) = read_samples(converted(tmp_path, {"a.png": target.getvalue()}, field="video"))
    assert sample.record.meta["duration_ms"] == 400
    assert shown(sample, 2).pixels[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_an_animation_that_the_row_calls_an_image_is_its_first_frame(tmp_path: Path) -> None:
    files = {"a.webp": animated("WEBP"), "b.png": animated("PNG"), "c.gif": make_gif(4)}
    samples = read_samples(converted(tmp_path, files))
    assert [sample.media[0].ending for sample in samples] == ["webp", "png", "png"]
    assert all("duration_ms" not in sample.record.meta for sample in samples)


def test_a_gif_that_the_row_calls_a_video_stays_one_whatever_its_name(tmp_path: Path) -> None:
    gif = make_gif(4)
    samples = read_samples(converted(tmp_path, {"a.gif": gif, "b.jpg": gif, "c": gif}, field="video"))
    assert [sample.media[0].ending for sample in samples] == ["gif"] * 3


def test_one_gif_that_rows_call_an_image_and_a_video_gives_two_samples(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(make_gif(4))
    rows = [llava_item(image="a.gif"), llava_item(video="a.gif"), llava_item("again ?", image="a.gif")]
    convert("llava", write_json(tmp_path / "rows.json", rows), tmp_path / "out")
    assert [(one.media[0].ending, len(one.record.conversations)) for one in read_samples(tmp_path / "out")] == [
        ("png", 2),
        ("gif", 1),
    ]


def test_an_animation_is_shrunk_and_cut_as_a_video(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(animated("WEBP"))
    rows = write_json(tmp_path / "rows.json", [llava_item(video="a.webp", start=0.5, end=1.5)])
    convert("llava", rows, tmp_path / "plain")
    convert("llava", rows, tmp_path / "small", "--reencode", "16")
    (plain,), (small,) = read_samples(tmp_path / "plain"), read_samples(tmp_path / "small")
    assert (plain.media[0].ending, plain.record.start_ms, plain.record.end_ms) == ("mkv", 500, 1500)
    assert (small.media[0].ending, small.record.meta["height"], small.record.meta["duration_ms"]) == ("mp4", 16, 1000)
    assert not list((tmp_path / "small").glob(".*scratch"))


@pytest.mark.parametrize("reencoding", [None, Reencoding(16)])
def test_nothing_is_kept_of_what_was_written_for_a_sample_that_is_left_out(
    tmp_path: Path, reencoding: Reencoding | None
) -> None:
    (tmp_path / "a.webp").write_bytes(animated("WEBP"))
    (tmp_path / "scratch").mkdir()
    wanted = MediaJob(0, "a.webp", (str(tmp_path),), 5_000_000, None, "video")
    (outcome,) = prepare_all([wanted], Preparation(True, reencoding, tmp_path / "scratch"), 0)
    assert isinstance(outcome, RowProblem)
    assert outcome.reason is Reason.SPAN
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_shrunk_as_it_is_shown(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20, :30] = 255
    source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
    source.write_bytes(with_exif(saved("JPEG", pixels, quality=95), turned(orientation)))
    facts = write_picture(source, target, 20)
    expected = upright(pixels, orientation)[1::2, 1::2]
    with target.open("rb") as file:
        found = read_image(file).pixels[0]
    assert (facts.height, facts.width) == found.shape[:2] == expected.shape[:2]
    assert np.abs(found.astype(int) - expected).mean() < 8


def test_a_picture_keeps_depth_and_white_ground_when_it_is_shrunk_or_written_as_png(tmp_path: Path) -> None:
    depth = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    clear = np.zeros((48, 64, 4), dtype=np.uint8)
    files = {"depth.png": saved("PNG", depth), "depth.tif": saved("TIFF", depth), "clear.png": saved("PNG", clear)}
    files["clear.tif"] = saved("TIFF", clear)
    for number, options in enumerate([(), ("--reencode", "32"), ("--reencode", "64")]):
        (tmp_path / str(number)).mkdir()
        samples = read_samples(converted(tmp_path / str(number), files, *options))
        means = [shown(sample).pixels.mean() for sample in samples]
        assert np.abs(np.array(means) - [127.5, 127.5, 255, 255]).max() < 1.5


@pytest.mark.parametrize("scale", [1, 255, 65535])
def test_grey_of_32_bits_is_taken_where_its_scale_is_known(tmp_path: Path, scale: int) -> None:
    levels = np.tile(np.linspace(0, 1, 64), (48, 1))
    pixels = levels.astype(np.float32) if scale == 1 else (levels * scale).astype(np.int32)
    (tmp_path / "a.tif").write_bytes(saved("TIFF", pixels))
    if scale == 255:
        with pytest.raises(RowProblem, match="grey of 32-bit integers from 0 to 255, whose scale is unknown"):
            write_picture(tmp_path / "a.tif", tmp_path / "b.png")
        return
    write_picture(tmp_path / "a.tif", tmp_path / "b.png")
    assert np.asarray(Image.open(tmp_path / "b.png")).mean() == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize("values", [(0.0, 80.0), (-1.0, 1.0), (0.0, float("nan")), (0, 70_000), (-5, 300)])
def test_grey_of_an_unknown_scale_is_refused_by_its_values(tmp_path: Path, values: tuple[float, float]) -> None:
    pixels = np.array([values], dtype=np.float32 if isinstance(values[0], float) else np.int32)
    (tmp_path / "a.tif").write_bytes(saved("TIFF", pixels))
    with pytest.raises(RowProblem, match="grey of 32-bit"):
        probe_image(tmp_path / "a.tif")


def test_what_training_refuses_is_left_out_with_advice_that_helps(tmp_path: Path) -> None:
    files = {
        "bomb.png": saved("PNG", np.zeros((8001, 8000), dtype=np.uint8)),
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "drawing.jpg": b"8BPS\0\1" + bytes(30),
        "page.jpg": b"<!DOCTYPE html>\n<html>404</html>",
        "pointer.mp4": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n",
        "unknown": bytes(range(1, 200)),
        "half.jpg": saved("JPEG")[:400],
        "noise.png": bytes(range(1, 200)),
        "empty.jpg": b"",
        "good.jpg": PICTURE,
    }
    out = converted(tmp_path, files, status=1)
    problems = [json.loads(line) for line in (out / "llava.left_out.jsonl").read_text().splitlines()]
    assert [(one["media"], one["reason"]) for one in problems] == [
        ("bomb.png", "media too large"),
        ("phone.heic", "unsupported media"),
        ("drawing.jpg", "unsupported media"),
        ("page.jpg", "damaged media"),
        ("pointer.mp4", "damaged media"),
        ("unknown", "damaged media"),
        ("half.jpg", "damaged media"),
        ("noise.png", "damaged media"),
        ("empty.jpg", "damaged media"),
    ]
    expected = ["scale it down", "as JPEG or PNG", "as JPEG or PNG", *["fetch the file itself"] * 2]
    expected += ["fetch it again"] * 4
    assert all(advice in one["message"] for one, advice in zip(problems, expected, strict=True))


def test_a_good_png_with_a_long_text_is_converted(tmp_path: Path) -> None:
    long = chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(3_000_000)))
    (sample,) = read_samples(converted(tmp_path, {"made.png": png(PIXELS, 8, RGB, before=long)}))
    assert np.array_equal(shown(sample).pixels[0], PIXELS)


def test_a_video_without_a_usual_ending_is_known_by_its_bytes(tmp_path: Path) -> None:
    samples = read_samples(converted(tmp_path, dict.fromkeys(["clip", "clip.video", "clip.jpg"], CLIP), field="video"))
    assert [sample.media[0].ending for sample in samples] == ["mp4"] * 3


def test_without_probing_only_what_cannot_be_stored_as_it_is_is_opened(tmp_path: Path) -> None:
    files = {"a.jpg": b"unread", "b.bmp": make_image(form="bmp"), "c": PICTURE, "d.jpg": make_gif(2), "e.png": PICTURE}
    samples = read_samples(converted(tmp_path, files, "--no-probe"))
    assert [sample.media[0].ending for sample in samples] == ["jpg", "png", "jpg", "png", "png"]
    assert [len(sample.record.meta) for sample in samples] == [1, 3, 3, 3, 1]


def test_a_damaged_picture_is_a_row_s_problem_not_a_crash(tmp_path: Path) -> None:
    for number in range(40):
        data = bytearray(saved(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"][number % 6]))
        generator = np.random.default_rng(number)
        for place in generator.integers(0, min(len(data), 200), 12):
            data[place] = generator.integers(0, 256)
        (tmp_path / "a.jpg").write_bytes(data)
        with contextlib.suppress(RowProblem):  # any other error fails the test
            probe_image(tmp_path / "a.jpg")
