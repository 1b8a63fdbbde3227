r"""Measures which tokens ``TemporalTokenDrop`` keeps and how long a bridge takes: ``python -m benchmarks.token_drop``.

    python -m benchmarks.token_drop --shards 'runs/quickstart/features/train-*.tar' --videos 64 --segment-frames 4

Videos are cached features of shards. Without ``--shards`` they are made: 32 frames of 144 patches of width 1024. A
patch of such a frame is new with a probability of 0.2; otherwise it is nearly that of the frame before. The bridge, a
``RecurrentMemoryBridge`` with default settings, reads one video a call without gradients. The table has the share of
tokens that every setting keeps, and the seconds of reducer and bridge together, also as a multiple of those without a
reducer. All settings alternate, and the fastest of several rounds counts.
"""

import argparse
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor

from benchmarks.command_options import CLOCKS, add_clock_option
from command_errors import run_and_exit
from components.bridges.recurrent import RecurrentMemoryBridge
from components.building import MakeReducer
from components.interfaces import SegmentInput, SegmentReducer
from components.reducers.temporal_token_drop import TemporalTokenDrop
from components.streams import run_stream
from datamodules.shards.shard_names import find_shards

_OUT_DIM = 2048
_MADE = (32, 144, 1024)  # frames, patches, width
_NEW_PATCHES = 0.2


class Measurement(NamedTuple):
    """What one setting keeps and takes, over all videos."""

    share: float  # of the tokens that are kept
    seconds: float


def stored_videos(shards: Sequence[str], most: int, num_patches: int | None, dim: int | None) -> list[Tensor]:
    """Patches ``[T, N, D]`` of the first videos in local feature shards.

    Raises:
        ValueError: The shards have no cached features.
    """
    found = list(islice(stored_features(find_shards(shards)), most))
    if not found:
        raise ValueError(
            f"{', '.join(shards)} have no cached features: write them with `python -m apps.cache_features`"
        )
    end = None if num_patches is None else 1 + num_patches
    return [features[:, 1:end, :dim].float() for features in found]


def stored_features(paths: Sequence[str]) -> Iterator[Tensor]:
    """Features ``[T, rows, width]`` of every video in feature shards, class token first."""
    for path in paths:
        with tarfile.open(path) as shard:
            for member in shard:
                if member.name.endswith(".safetensors") and (data := shard.extractfile(member)) is not None:
                    yield load(data.read())["features"]


def made_videos(count: int) -> Iterator[Tensor]:
    """Videos of random patches, most of which hardly change from frame to frame."""
    num_frames, num_patches, dim = _MADE
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        frames = [torch.randn(num_patches, dim, generator=generator)]
        for _ in range(num_frames - 1):
            is_new = torch.rand(num_patches, 1, generator=generator) < _NEW_PATCHES
            noise = torch.randn(num_patches, dim, generator=generator)
            frames.append(torch.where(is_new, noise, frames[-1] + 0.1 * noise))
        yield torch.stack(frames)


def segments_of(video: Tensor, length: int) -> list[SegmentInput]:
    """Cut one video ``[T, N, D]`` into segments of ``length`` frames."""
    cuts = torch.split(video.unsqueeze(0), length, dim=1)
    masks = [torch.ones(1, each.shape[1], dtype=torch.bool) for each in cuts]
    return [SegmentInput.from_grid(each, mask, mask.long()) for each, mask in zip(cuts, masks, strict=True)]


def measure(
    settings: dict[str, MakeReducer | None], videos: Sequence[Tensor], length: int, rounds: int, clock: str
) -> dict[str, Measurement]:
    """Run the bridge with every reducer over all videos."""
    dim = videos[0].shape[2]
    torch.manual_seed(0)
    bridge = RecurrentMemoryBridge(dim, _OUT_DIM).eval()
    reducers = {name: None if make is None else make(dim) for name, make in settings.items()}
    segments = [segments_of(video, length) for video in videos]
    shares = {name: _share(reducer, segments) for name, reducer in reducers.items()}
    seconds = dict.fromkeys(settings, float("inf"))
    now = CLOCKS[clock]
    for _ in range(rounds):
        for name, reducer in reducers.items():
            start = now()
            with torch.no_grad():
                for video in segments:
                    run_stream(bridge, reducer, video, None)
            seconds[name] = min(seconds[name], now() - start)
    return {name: Measurement(shares[name], seconds[name]) for name in settings}


def _share(reducer: SegmentReducer[Any] | None, videos: Sequence[Sequence[SegmentInput]]) -> float:
    """Share of the tokens that a reducer keeps."""
    if reducer is None:
        return 1.0
    kept = total = 0
    for segments in videos:
        state = None
        for segment in segments:
            reduced, state = reducer(segment, state)
            kept, total = kept + int(reduced.token_mask.sum()), total + int(segment.token_mask.sum())
    return kept / total


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.token_drop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shards", nargs="+", help="local feature shards: paths or patterns")
    extra = "of a cache with saliency or joint embedding, as the cache command printed it"
    parser.add_argument("--num-patches", type=int, help=extra)
    parser.add_argument("--dim", type=int, help=extra)
    parser.add_argument("--videos", type=int, default=4, help="most videos that are read")
    parser.add_argument("--segment-frames", type=int, default=8)
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.25, 0.5, 0.7, 0.8, 0.9, 0.95])
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.5, 0.85])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    add_clock_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    given = _parse(arguments)
    torch.set_num_threads(given.threads)
    videos = (
        stored_videos(given.shards, given.videos, given.num_patches, given.dim)
        if given.shards
        else list(made_videos(given.videos))
    )
    settings: dict[str, MakeReducer | None] = {"no reducer": None}
    for each in given.thresholds:
        settings[f"threshold {each}"] = partial(TemporalTokenDrop, threshold=each)
        settings[f"threshold {each}, last kept"] = partial(TemporalTokenDrop, threshold=each, reference="last_kept")
    for each in given.ratios:
        settings[f"ratio {each}"] = partial(TemporalTokenDrop, ratio=each)
    frames, (num_patches, dim) = sum(map(len, videos)), videos[0].shape[1:]
    print(f"{len(videos)} videos, {frames} frames of {num_patches} patches, width {dim}, ", end="")
    print(f"segments of {given.segment_frames} frames, {given.threads} CPU threads, {given.clock} clock\n")
    print("| setting | tokens kept | reducer and bridge, s | of no reducer |\n|---|---|---|---|")
    found = measure(settings, videos, given.segment_frames, given.rounds, given.clock)
    for name, (share, seconds) in found.items():
        print(f"| {name} | {share:.1%} | {seconds:.3f} | {seconds / found['no reducer'].seconds:.2f} |")


if __name__ == "__main__":
    run_and_exit(main)
