"""Videos that are cut off, damaged, hostile or beyond all bounds: a named error or right frames, nothing else."""

import io
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.errors import BrokenMediaError, OversizedMediaError, SampleError
from datamodules.media.decoded_frames import FrameSize
from datamodules.media.decoders.pyav_decoder import PyAVDecoder
from datamodules.media.frame_sampling import FrameSampling, choose_frames
from tests.datamodules.video_files import FORMATS, SAMPLING, sample_frames
from tests.fixtures_data import make_clip, make_image


def noise_clip(container: str, codec: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    return make_clip(20, container=container, codec=codec, frames=pixels, keyframe_interval=5)


@pytest.mark.parametrize(("container", "codec"), FORMATS)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.4, 0.8])
def test_a_cut_off_video_is_an_error_with_its_key(container: str, codec: str, part: float) -> None:
    whole = noise_clip(container, codec)
    with pytest.raises(BrokenMediaError, match=r"shard x.tar, key 'a': .*(again|leave the sample out|no frame)"):
        sample_frames(whole[: int(len(whole) * part)], FrameSampling(num_frames=4), where="shard x.tar, key 'a'")


def test_a_cut_off_video_with_its_index_in_front_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "web.mp4"  # the clip again with its moov box first, as files from the web are
    with (
        av.open(io.BytesIO(noise_clip("mp4", "libx264"))) as source,
        av.open(target, "w", format="mp4", options={"movflags": "faststart"}) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    whole = target.read_bytes()
    assert len(sample_frames(whole, FrameSampling(num_frames=20)).pixels) == 20
    assert whole.index(b"moov") < whole.index(b"mdat")
    for part in (0.3, 0.6, 0.95):
        with pytest.raises(BrokenMediaError):
            sample_frames(whole[: int(len(whole) * part)], FrameSampling(num_frames=4))


@pytest.mark.parametrize("data", [b"", b"no video at all", bytes(4096), make_image()[:100]])
def test_what_is_no_video_is_an_error(data: bytes) -> None:
    with pytest.raises(BrokenMediaError, match="key 'a'"):
        sample_frames(data, FrameSampling(), where="key 'a'")


def test_damaged_bytes_give_frames_or_a_named_error_and_never_anything_else() -> None:
    whole = noise_clip("mp4", "libx264")
    generator = np.random.default_rng(1)
    outcomes = {"frames": 0, "error": 0}
    for _ in range(60):
        data = np.frombuffer(whole, dtype=np.uint8).copy()
        data[generator.integers(0, len(data), 20)] ^= generator.integers(1, 256, 20, dtype=np.uint8)
        try:
            outcomes["frames"] += len(sample_frames(data.tobytes(), FrameSampling(num_frames=6)).pixels) == 6
        except BrokenMediaError:
            outcomes["error"] += 1
    assert sum(outcomes.values()) == 60
    assert all(outcomes.values())


def test_a_title_in_another_encoding_is_no_damage() -> None:
    data = make_clip(2).replace(b"VideoHandler", b"Vid\xe9oHandler")
    assert len(sample_frames(data, FrameSampling(num_frames=2)).pixels) == 2


def test_an_unknown_codec_is_an_error_with_its_key() -> None:
    with pytest.raises(BrokenMediaError, match="key 'a': its video codec is unknown"):
        sample_frames(make_clip(2).replace(b"avc1\0", b"zzzz\0"), FrameSampling(), where="key 'a'")


@pytest.mark.parametrize(
    "text",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
)
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_lists_of_other_files_and_addresses_reach_no_decoder(text: bytes, backend: str) -> None:
    with pytest.raises(BrokenMediaError, match="key 'a': the file is no MP4, MOV, Matroska, WebM, AVI or GIF"):
        sample_frames(text, FrameSampling(), backend=backend, where="key 'a'")


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
def test_frames_beyond_the_bound_are_refused(backend: str) -> None:
    pytest.importorskip("av" if backend == "pyav" else backend)
    data = make_clip(3)
    with pytest.raises(OversizedMediaError, match="64 x 48 pixels are larger than max_pixels 3071"):
        sample_frames(data, SAMPLING, backend=backend, size=FrameSize(max_pixels=64 * 48 - 1), where="key 'a'")
    assert len(sample_frames(data, SAMPLING, backend=backend, size=FrameSize(max_pixels=64 * 48)).pixels) == 3


def test_the_decoder_itself_keeps_to_the_bound_where_the_container_lies() -> None:
    video = PyAVDecoder(io.BytesIO(make_clip(3)), FrameSize(), "key 'a'")
    video._size = FrameSize(max_pixels=64 * 48 - 1)  # as if the header had told of small frames
    with pytest.raises(BrokenMediaError, match=r"key 'a': .*cannot be decoded"):
        video.frames([0])


def test_a_video_that_claims_to_last_for_years_is_refused() -> None:
    data = bytearray(make_clip(3))
    entry = data.index(b"stts") + 4 + 4 + 4 + 4  # how long its first frames last
    data[entry : entry + 4] = (0x7FFF_FFFF).to_bytes(4, "big")
    with pytest.raises((BrokenMediaError, SampleError), match=r"max_frames|days|undamaged"):
        sample_frames(bytes(data), FrameSampling(num_frames=None, fps=30.0))


def test_more_frames_than_any_video_needs_are_refused() -> None:
    class Long:
        frame_ms = np.arange(3)
        duration_ms = 10**9

    with pytest.raises(OversizedMediaError, match=r"its 1000000 s would give 2000000 frames; set sampling.max_frames"):
        choose_frames(Long(), FrameSampling(num_frames=None, fps=2.0))  # type: ignore[arg-type]
    assert choose_frames(Long(), FrameSampling(num_frames=None, fps=2.0, max_frames=9)) == [2]  # type: ignore[arg-type]


def test_a_frame_that_ffmpeg_marks_as_damaged_is_refused() -> None:
    whole = noise_clip("avi", "mpeg4")
    plain = sample_frames(whole, FrameSampling(num_frames=20)).pixels
    generator = np.random.default_rng(2)
    refused = 0
    for _ in range(20):
        data = np.frombuffer(whole, dtype=np.uint8).copy()
        data[generator.integers(len(data) // 4, len(data) // 2, 30)] ^= 0x55
        try:
            different = sample_frames(data.tobytes(), FrameSampling(num_frames=20)).pixels != plain
            assert different.any()
        except BrokenMediaError:
            refused += 1
    assert refused >= 15
