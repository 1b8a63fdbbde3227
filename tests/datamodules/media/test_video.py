import contextlib
import itertools
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.errors import BrokenMediaError, SampleError
from datamodules.media.decoded_frames import DecodedFrames, FrameSize, Pixels, decode_in_portions
from datamodules.media.decoders.pyav_decoder import PyAVDecoder
from datamodules.media.frame_sampling import FrameSampling, choose_frames, frame_times_ms
from datamodules.media.transforms import PixelOptions, PixelTransform
from tests.datamodules.video_files import FORMATS, SAMPLING, assert_frames, opened, sample_frames
from tests.fixtures_data import make_clip, make_gif, natural_frames


@pytest.fixture(scope="module")
def long_clip() -> bytes:
    return make_clip(120, keyframe_interval=10)


@pytest.mark.parametrize(("container", "codec"), FORMATS)
def test_every_container_gives_the_right_frames_and_times(container: str, codec: str) -> None:
    data = make_clip(30, fps=5, container=container, codec=codec, keyframe_interval=6)
    video = opened(data)
    assert video.frame_ms == pytest.approx([200 * index for index in range(30)], abs=1)
    assert video.duration_ms == pytest.approx(6000, abs=1)
    assert_frames(video.frames([0, 3, 4, 17, 29]).pixels, [0, 3, 4, 17, 29])
    assert_frames(video.frames(list(range(30))).pixels, list(range(30)))


def test_seeking_and_reading_through_give_the_same_pixels(long_clip: bytes) -> None:
    video = opened(long_clip)
    everything = video.frames(range(120)).pixels
    for step in (1, 3, 9, 11, 40, 119):
        indices = list(range(0, 120, step))
        assert np.array_equal(video.frames(indices).pixels, everything[indices])


def test_sparse_frames_are_sought_and_dense_ones_read_through(
    long_clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"decoded": 0, "sought": 0}
    open_decoding = PyAVDecoder._open_decoding

    @contextlib.contextmanager
    def counting(self: PyAVDecoder) -> Iterator[tuple[Any, Any]]:
        class Counting:
            def decode(self, stream: Any) -> Iterator[Any]:
                for frame in container.decode(stream):
                    calls["decoded"] += 1
                    yield frame

            def seek(self, *arguments: Any, **options: Any) -> None:
                calls["sought"] += 1
                container.seek(*arguments, **options)

        with open_decoding(self) as (container, stream):
            yield Counting(), stream

    monkeypatch.setattr(PyAVDecoder, "_open_decoding", counting)
    video = opened(long_clip)
    assert_frames(video.frames([1, 62, 119]).pixels, [1, 62, 119])
    assert calls["sought"] == 2
    assert calls["decoded"] < 10
    calls.update(decoded=0, sought=0)
    video.frames(list(range(0, 120, 3)))
    assert calls == {"decoded": 118, "sought": 0}


def test_frames_lie_at_the_centres_of_equal_slices(long_clip: bytes) -> None:
    result = sample_frames(long_clip, FrameSampling(num_frames=4))  # 30 s: centres at 3.75 s, 11.25 s, ...
    assert result.frame_ms.tolist() == [3750, 11250, 18750, 26250]
    assert result.frame_ms.dtype == np.int64
    assert result.pixels.dtype == np.uint8
    assert_frames(result.pixels, [15, 45, 75, 105])


def test_asking_for_as_many_frames_as_there_are_gives_each_once() -> None:
    assert_frames(sample_frames(make_clip(7, fps=3), FrameSampling(num_frames=7)).pixels, list(range(7)))


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_a_short_video_gives_its_distinct_frames(num_frames: int) -> None:
    result = sample_frames(make_clip(num_frames), FrameSampling(num_frames=16))
    assert_frames(result.pixels, list(range(num_frames)))
    assert result.frame_ms.tolist() == [250 * index for index in range(num_frames)]


def test_frame_rate_decides_up_to_a_maximum(long_clip: bytes) -> None:
    per_second = sample_frames(long_clip, FrameSampling(num_frames=None, fps=1.0))
    assert len(per_second.pixels) == 30
    bounded = sample_frames(long_clip, FrameSampling(num_frames=None, fps=1.0, max_frames=4))
    assert np.array_equal(bounded.pixels, sample_frames(long_clip, FrameSampling(num_frames=4)).pixels)


def test_a_part_of_a_video_counts_time_from_its_start(long_clip: bytes) -> None:
    result = sample_frames(long_clip, FrameSampling(num_frames=2), start_ms=10_000, end_ms=14_000)
    assert_frames(result.pixels, [44, 52])
    assert result.frame_ms.tolist() == [1000, 3000]


def test_a_part_that_ends_late_is_cut_at_the_video_end() -> None:
    result = sample_frames(make_clip(8), FrameSampling(num_frames=2), start_ms=1000, end_ms=99_000)
    assert_frames(result.pixels, [5, 7])


def test_a_part_behind_the_end_is_an_error() -> None:
    with pytest.raises(SampleError, match="key 'a': start_ms 2000 is after the video's end at 1000 ms"):
        sample_frames(make_clip(4), FrameSampling(), start_ms=2000, where="key 'a'")


def test_frame_times_stay_inside_and_do_not_fall() -> None:
    for duration, count in itertools.product([1, 3, 1000, 7_200_001], [1, 2, 7, 64]):
        times = frame_times_ms(duration, count)
        assert len(times) == count
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] < duration
        assert abs(times[0] - (duration - times[-1])) <= 1


@pytest.mark.parametrize(
    "arguments",
    [{}, {"fps": 1.0}, {"num_frames": None}, {"max_frames": 4}, {"num_frames": 0}, {"num_frames": None, "fps": -1.0}],
)
def test_contradictory_sampling_is_refused(arguments: dict[str, float | None]) -> None:
    if not arguments:
        assert FrameSampling().count(1000) == 16
        return
    with pytest.raises(ValueError, match="num_frames"):
        FrameSampling(**arguments)  # type: ignore[arg-type]


def test_a_gif_is_a_video() -> None:
    result = sample_frames(make_gif(12, fps=5), FrameSampling(num_frames=4))
    assert_frames(result.pixels, [1, 4, 7, 10])
    assert result.frame_ms.tolist() == [200, 800, 1400, 2000]


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_large_frames_are_scaled_in_the_decoder_as_the_transform_would(fit: str, backend: str) -> None:
    pytest.importorskip("av" if backend == "pyav" else backend)
    data = make_clip(6, width=320, height=240, frames=natural_frames(6, 240, 320))
    transform = PixelTransform(PixelOptions(96, fit), train=False)  # type: ignore[arg-type]
    size = transform.frame_size(10**7)
    small = sample_frames(data, SAMPLING, size=size, backend=backend).pixels
    assert small.shape == (4, 96, 128, 3) if fit == "crop" else (4, 72, 96, 3)
    exact = sample_frames(data, SAMPLING, backend=backend).pixels
    fitted = [transform(torch.tensor(pixels).permute(0, 3, 1, 2), (0,)).float() for pixels in (small, exact)]
    assert (fitted[0] - fitted[1]).abs().mean() < 2.0
    assert (fitted[0] - fitted[1]).mean().abs() < 1.5


def test_large_frames_are_decoded_a_few_at_a_time() -> None:
    asked: list[list[int]] = []

    def decode(indices: list[int]) -> Pixels:
        asked.append(indices)
        return np.stack([np.full((2000, 3000, 3), index, dtype=np.uint8) for index in indices])

    pictures = decode_in_portions([3, 5, 6, 9], decode, FrameSize(side=2), "key 'a'")
    assert asked == [[3], [5, 6], [9]]  # 16 million pixels
    assert [(picture.shape, picture[0, 0, 0]) for picture in pictures] == [((2, 3, 3), n) for n in (3, 5, 6, 9)]


def test_a_library_that_gives_fewer_frames_than_asked_is_no_crash() -> None:
    with pytest.raises(BrokenMediaError, match=r"key 'a': .*fewer than the 2 chosen frames came"):
        decode_in_portions([3, 5], lambda _: np.zeros((1, 4, 4, 3), dtype=np.uint8)[:0], FrameSize(), "key 'a'")


def test_frames_near_the_wanted_size_are_left_as_they_are() -> None:
    data = make_clip(4, frames=natural_frames(4, 48, 64))
    plain = sample_frames(data, SAMPLING).pixels
    assert np.array_equal(sample_frames(data, SAMPLING, size=FrameSize(side=32)).pixels, plain)
    assert sample_frames(data, SAMPLING, size=FrameSize(side=31)).pixels.shape == (4, 31, 41, 3)


def test_a_phone_film_is_turned_upright() -> None:
    pixels = np.zeros((3, 48, 64, 3), dtype=np.uint8)
    pixels[:, :, :32] = 255  # left half bright
    data = bytearray(make_clip(3, frames=pixels))
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus_one = (0x10000).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big")
    zero, unit = bytes(4), (0x40000000).to_bytes(4, "big")
    assert data[matrix : matrix + 4] == one
    data[matrix : matrix + 36] = (
        zero + one + zero + minus_one + zero + zero + zero + zero + unit
    )  # 90 degrees clockwise
    frames = sample_frames(bytes(data), FrameSampling(num_frames=3)).pixels
    assert frames.shape == (3, 64, 48, 3)
    assert frames[:, :28].mean() > 240  # the left half is now on top
    assert frames[:, 36:].mean() < 15


def test_only_chosen_frames_are_kept() -> None:
    data = make_clip(200, width=320, height=240)
    tracemalloc.start()
    sample_frames(data, FrameSampling(num_frames=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 320 * 240 * 3


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of pyav, decord, torchcodec"):
        opened(make_clip(1), "opencv")


def test_a_missing_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError, match=r"pip install 'decord==0.6.0'.*or choose the backend 'pyav'"):
        opened(make_clip(1), "decord")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ImportError, match=r"pip install 'torchcodec>=0.12,<0.14'.*or choose the backend 'pyav'"):
        opened(make_clip(1), "torchcodec")


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_a_torchcodec_that_does_not_load_beside_this_torch_says_which_does(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise error("libtorchcodec.so: undefined symbol")

    monkeypatch.setattr("datamodules.media.decoders.torchcodec_decoder.importlib.import_module", fail)
    with pytest.raises(ImportError, match=r"torchcodec>=0.12,<0.14'.*It said: libtorchcodec.so: undefined symbol"):
        opened(make_clip(1), "torchcodec")


@pytest.mark.parametrize("other", ["decord", "torchcodec"])
def test_other_backends_choose_the_same_frames(other: str) -> None:
    pytest.importorskip(other)
    data = make_clip(30, fps=5, keyframe_interval=6)
    for sampling in (
        FrameSampling(num_frames=7),
        FrameSampling(num_frames=None, fps=2.0),
        FrameSampling(num_frames=99),
    ):
        ours, theirs = (sample_frames(data, sampling, backend=backend) for backend in ("pyav", other))
        assert theirs.frame_ms.tolist() == ours.frame_ms.tolist()
        assert np.abs(theirs.pixels.astype(int) - ours.pixels.astype(int)).max() <= 3
    with pytest.raises(BrokenMediaError, match="key 'a'"):
        sample_frames(data[:700], FrameSampling(), backend=other, where="key 'a'")


def test_choosing_frames_needs_no_decoding(long_clip: bytes) -> None:
    class NoDecoding:
        frame_ms = (0, 100, 500)
        duration_ms = 1000

        def frames(self, indices: object) -> DecodedFrames:
            raise AssertionError

    assert choose_frames(NoDecoding(), FrameSampling(num_frames=4)) == [1, 2]  # type: ignore[arg-type]
