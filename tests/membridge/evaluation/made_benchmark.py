"""A small benchmark on made-up clips, for tests of evaluation."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.item import BenchmarkFiles, BenchmarkItem, MediaPart
from tests.fixtures_data import make_clip, natural_frames

OPTIONS = ("red", "blue", "circle", "none")
QUESTIONS = ("which colour ?", "which shape ?", "yes or no ?")


class MadeBenchmark(Benchmark):
    """Gives the items that it is made of."""

    def __init__(self, items: Sequence[BenchmarkItem], **settings: str) -> None:
        super().__init__("questions.json", **settings)  # type: ignore[arg-type]
        self.items = list(items)

    def read(self, root: Path) -> BenchmarkFiles:
        return BenchmarkFiles(self.items, [])


def write_clips(folder: Path, number: int, *, num_frames: int = 8) -> None:
    """Write ``clip0.mp4`` and so on, of 2 frames a second."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(number):
        frames = natural_frames(num_frames, 84, 96, seed)
        (folder / f"clip{seed}.mp4").write_bytes(make_clip(num_frames, width=96, height=84, fps=2, frames=frames))


def write_frame_folder(folder: Path, num_frames: int, seed: int = 0) -> None:
    """Write a clip's frames as numbered pictures, without loss."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(natural_frames(num_frames, 84, 96, seed), start=1):
        Image.fromarray(frame).save(folder / f"{number:05d}.png")


def made_items(num_videos: int, *, per_video: int = 3, ask_s: Sequence[float] = ()) -> list[BenchmarkItem]:
    """Items about clips, the questions about one clip not beside each other.

    Args:
        num_videos: Clips.
        per_video: Questions about each.
        ask_s: When each of them is asked, in seconds; empty: about the whole video.
    """
    return [
        BenchmarkItem(
            id=f"q{question}-{video}",
            media=(MediaPart(f"clip{video}"),),
            question=QUESTIONS[question % len(QUESTIONS)],
            options=OPTIONS,
            answer=(video + question) % len(OPTIONS),
            reference=OPTIONS[(video + question) % len(OPTIONS)],
            labels={"type": f"t{question}"},
            ask_ms=round(1000 * ask_s[question]) if ask_s else None,
        )
        for question in range(per_video)
        for video in range(num_videos)
    ]
