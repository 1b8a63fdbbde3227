"""A small trained run, and held-out conversations on which it is evaluated."""

from pathlib import Path
from typing import NamedTuple

from lightning_modules.evaluation.predictions import Prediction
from tests.fixtures_data import RawSample, make_clip, make_image, make_record
from tests.fixtures_models import IMAGE_SIZE

QUESTIONS = [("which colour ?", "red"), ("which shape ?", "circle")]


class Run(NamedTuple):
    """A small finished training run and shards to evaluate it on."""

    folder: Path
    config: Path
    checkpoint: Path
    shards: list[str]


def held_out_samples() -> list[RawSample]:
    """Three videos of two lengths, an image and plain text: 8 questions."""
    clips = [make_clip(num_frames, width=IMAGE_SIZE, height=IMAGE_SIZE) for num_frames in (6, 8, 12)]
    lengths = ["1x", "1x", "2x"]
    videos = [
        (f"video{number}", make_record(QUESTIONS, meta={"length": length}), clip, "mp4")
        for number, (clip, length) in enumerate(zip(clips, lengths, strict=True))
    ]
    image = ("image", make_record([("how many ?", "one")], category="count"), make_image(), "png")
    words = ("words", make_record([("say hello", "hello")], category="chat", media=False), None, None)
    return [*videos, image, words]


def asked(predictions: list[Prediction]) -> list[tuple[str, str]]:
    return [(prediction.key, prediction.id) for prediction in predictions]


def approximate(predictions: list[Prediction]) -> list[Prediction]:
    """Likelihoods without the last digits, which depend on the other conversations of a batch."""
    return [each._replace(nll=None if each.nll is None else round(each.nll, 3)) for each in predictions]


ALL_QUESTIONS = [(key, id_) for key in ("video0", "video1", "video2") for id_ in ("q0", "q1")] + [
    ("image", "q0"),
    ("words", "q0"),
]
