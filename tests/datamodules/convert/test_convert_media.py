import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import datamodules.convert.reencode_picture
from datamodules.convert.media_paths import checked_path, find_media
from datamodules.convert.reencode_picture import probe_image
from datamodules.convert.row_problems import Reason, RowProblem
from datamodules.convert.video_check import probe_video
from datamodules.media.decoded_frames import FrameSize
from tests.datamodules.convert.conversions import (
    CLIP,
    PICTURE,
    convert,
    left_out,
    llava_item,
    read_samples,
    report,
    write_json,
    write_media,
)
from tests.fixtures_data import make_clip, make_image

NOISE = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
ENDINGS = {"mp4": "libx264", "mov": "libx264", "matroska": "libx264", "webm": "libvpx", "avi": "mpeg4"}


def write_index_first(path: Path, clip: bytes) -> bytes:
    """Write the same MP4 with its index in front, so that a file that was cut off can still be opened."""
    with (
        av.open(io.BytesIO(clip)) as source,
        av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.mp4", "a/../../b.mp4", "..\\a.mp4", "~/a.mp4", "http://x/a.mp4", "", ".", "a\n.mp4"]
)
def test_paths_that_could_lead_out_are_refused(name: str) -> None:
    with pytest.raises(RowProblem) as caught:
        checked_path(name)
    assert caught.value.reason is Reason.REFUSED_PATH


def test_one_file_has_one_path() -> None:
    assert checked_path("./a//b.mp4") == checked_path("a/b.mp4") == "a/b.mp4"


def test_a_hostile_path_reads_nothing_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(CLIP)
    write_media(tmp_path / "media", "a.mp4")
    names = ["../secret.mp4", str(tmp_path / "secret.mp4"), "a.mp4"]
    rows = write_json(tmp_path / "rows.json", [llava_item(video=name) for name in names])
    convert("llava", rows, tmp_path / "out", "--media-root", tmp_path / "media", status=1)
    assert [sample.record.meta["media"] for sample in read_samples(tmp_path / "out")] == ["a.mp4"]
    assert left_out(tmp_path / "out") == [(0, "refused path"), (1, "refused path")]


def test_missing_endings_are_tried_and_unusual_ones_mapped(tmp_path: Path) -> None:
    write_media(tmp_path, "plain.mkv", "dotted.v2.webm", "LOUD.MP4", "phone.m4v", "p.JPEG")
    (tmp_path / "old.wmv").write_bytes(make_clip(8, container="asf", codec="wmv2"))
    names = ["plain", "dotted.v2", "LOUD.MP4", "phone.m4v", "p.JPEG", "old.wmv", "frames", "folder"]
    (tmp_path / "frames").mkdir()
    (tmp_path / "folder.mp4").mkdir()
    rows = write_json(tmp_path / "rows.json", [llava_item(video=name) for name in names])
    convert("llava", rows, tmp_path / "out", status=1)
    samples = read_samples(tmp_path / "out")
    assert [sample.media[0].ending for sample in samples] == ["mkv", "webm", "mp4", "mp4", "jpg"]
    assert all(sample.media[0].content.read() in (CLIP, PICTURE) for sample in samples)
    assert left_out(tmp_path / "out") == [(5, "unsupported media"), (6, "unsupported media"), (7, "missing media")]


def test_folders_are_tried_in_turn_and_labels_choose_them(tmp_path: Path) -> None:
    one, two = write_media(tmp_path / "1", "a.mp4"), write_media(tmp_path / "2", "a.mp4", "b.mp4")
    assert find_media("a.mp4", (str(one), str(two))) == one / "a.mp4"
    assert find_media("b.mp4", (str(one), str(two))) == two / "b.mp4"
    for label in ("x", "y"):
        write_json(tmp_path / label / "rows.json", [llava_item(label, video="a.mp4")])
    inputs = [tmp_path / "x/rows.json", tmp_path / "y/rows.json"]
    convert("llava", *inputs, tmp_path / "out", "--media-root", one, "--media-root", f"y={two}")
    assert len(read_samples(tmp_path / "out")) == 2, "the same name in another folder is another video"
    convert("llava", *inputs, tmp_path / "joined", "--media-root", one)
    assert len(read_samples(tmp_path / "joined")) == 1


@pytest.mark.parametrize("container", ENDINGS)
def test_whole_videos_are_measured_and_cut_off_ones_refused(tmp_path: Path, container: str) -> None:
    clip = make_clip(40, container=container, codec=ENDINGS[container], frames=NOISE)
    path = tmp_path / "clip"
    path.write_bytes(clip)
    assert probe_video(path) == (64, 48, 10_000)
    for part in (0.02, 0.5, 0.8):
        path.write_bytes(clip[: int(part * len(clip))])
        with pytest.raises(RowProblem) as caught:
            probe_video(path)
        assert caught.value.reason is Reason.DAMAGED


def test_a_download_that_broke_off_behind_its_index_is_refused(tmp_path: Path) -> None:
    clip = write_index_first(tmp_path / "clip", make_clip(40, frames=NOISE))
    assert probe_video(tmp_path / "clip").duration_ms == 10_000
    (tmp_path / "clip").write_bytes(clip[:-2000])
    with pytest.raises(RowProblem, match=r"cut off|breaks off"):
        probe_video(tmp_path / "clip")


def test_a_playlist_that_is_called_a_video_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(CLIP)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with av.open(str(tmp_path / "list.mp4")) as unguarded:
        assert unguarded.streams.video, "FFmpeg itself follows such a list"
    with pytest.raises(RowProblem, match="list"):
        probe_video(tmp_path / "list.mp4")


def test_pictures_are_measured_as_they_are_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert probe_image(tmp_path / "turned.jpg")[:2] == (20, 40)
    (tmp_path / "png.jpg").write_bytes(make_image())
    assert probe_image(tmp_path / "png.jpg") == (64, 48, "PNG", 1), "the content counts, not the name"


def test_wrong_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = io.BytesIO()
    Image.fromarray(NOISE[0]).save(noise, "JPEG")
    for name, data in {"half": noise.getvalue()[:900], "text": b"no picture"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RowProblem) as caught:
            probe_image(tmp_path / name)
        assert caught.value.reason is Reason.DAMAGED
    monkeypatch.setattr(datamodules.convert.reencode_picture, "FrameSize", lambda: FrameSize(max_pixels=1000))
    (tmp_path / "large").write_bytes(make_image())
    with pytest.raises(RowProblem, match="more than the 1000 pixels that are read") as caught:
        probe_image(tmp_path / "large")
    assert caught.value.reason is Reason.OVERSIZED


def test_damaged_media_are_left_out_up_to_the_rate_that_is_allowed(tmp_path: Path) -> None:
    write_media(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "half.mp4").write_bytes(CLIP[:700])
    (tmp_path / "empty.mp4").write_bytes(b"")
    names = ["a", "half.mp4", "b", "empty.mp4", "c", "none", "half.mp4", "a"]
    rows = write_json(tmp_path / "rows.json", [llava_item(video=name) for name in names])
    convert("llava", rows, tmp_path / "out", "--max-missing-rate", 0.4, status=1)
    convert("llava", rows, tmp_path / "out", "--max-missing-rate", 0.5)  # the same conversion: nothing is done again
    assert [len(sample.record.conversations) for sample in read_samples(tmp_path / "out")] == [2, 1, 1]
    assert left_out(tmp_path / "out") == [
        (1, "damaged media"),
        (3, "damaged media"),
        (5, "missing media"),
        (6, "damaged media"),
    ]
    counts = report(tmp_path / "out")
    assert (counts["rows_read"], counts["rows_left_out"], counts["missing_rate"]) == (8, 4, 0.5)
    assert {reason: entry["rows"] for reason, entry in counts["reasons"].items()} == {
        "damaged media": 3,
        "missing media": 1,
    }
    assert counts["annotations"] == {"rows": {"rows_read": 8, "rows_left_out": 4}}


def test_bad_rows_are_listed_with_the_file_and_row_that_they_come_from(tmp_path: Path) -> None:
    lines = [json.dumps(llava_item("hello")), '{"half', json.dumps(llava_item(image=["a", "b"])), "[]"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    convert("llava", tmp_path / "rows.jsonl", tmp_path / "out", "--name", "mine", status=1)
    assert left_out(tmp_path / "out", "mine") == [(1, "malformed row"), (2, "several media"), (3, "malformed row")]
    assert len(read_samples(tmp_path / "out", "mine-*.tar")) == 1


def test_without_probing_files_are_only_looked_for(tmp_path: Path) -> None:
    (tmp_path / "unread.mp4").write_bytes(b"no video")
    rows = write_json(tmp_path / "rows.json", [llava_item(video="unread.mp4"), llava_item(video="none.mp4")])
    convert("llava", rows, tmp_path / "out", "--no-probe", status=1)
    assert [sample.record.meta for sample in read_samples(tmp_path / "out")] == [{"media": "unread.mp4"}]


def test_a_part_behind_the_end_is_refused_and_one_beyond_it_shortened(tmp_path: Path) -> None:
    write_media(tmp_path, "a.mp4")  # 2 s
    items = [llava_item(video="a.mp4", start=start, end=start + 1) for start in (0.5, 1.5, 2.5)]
    convert("llava", write_json(tmp_path / "rows.json", items), tmp_path / "out", status=1)
    assert [sample.record.meta["duration_ms"] for sample in read_samples(tmp_path / "out")] == [1000, 500]
    assert left_out(tmp_path / "out") == [(2, "wrong start or end")]
