"""Makes the data: shards of generated clips with several questions each, and a tokenizer."""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from apps.quickstart.tokenizer import conversation_texts, train_tokenizer
from datamodules.shards.schema import VIDEO_MARK
from datamodules.shards.shard_writer import ShardWriter

FRAMES_PER_SECOND = 30
_CONTENTS = 8
_NOISE = 4.0  # standard deviation in grey levels; without noise, decoding would be far too cheap
_NOISE_PICTURES = 8
_SHARDS = 4
_QUESTION = "What does the person in the middle of the picture do after scene {number} has begun?"
_ANSWER = "She puts the red box on the table, looks at it for a while and walks out of the room through the left door."


class Clips(NamedTuple):
    """Number and form of the clips."""

    clips: int = 24
    height: int = 240
    seconds: int = 10
    questions: int = 4  # about each


class Material(NamedTuple):
    """Where the data are, and their bit rate."""

    shards: str  # folder
    tokenizer: str  # folder
    kilobits_per_second: float  # of a clip, on average


def make_material(folder: Path, clips: Clips) -> Material:
    """Write shards and a tokenizer.

    Args:
        folder: Receives both.
        clips: How many, how large and how long. Contents repeat under other keys.
    """
    contents = [encode_clip(clips, seed) for seed in range(min(_CONTENTS, clips.clips))]
    with ShardWriter(folder / "shards" / "clips", max_samples=-(-clips.clips // _SHARDS)) as writer:
        for number in range(clips.clips):
            writer.write(f"clip{number:04d}", _record(clips.questions), contents[number % len(contents)], "mp4")
    train_tokenizer(conversation_texts(writer.paths)).save_pretrained(folder / "tokenizer")
    rate = 8 * sum(map(len, contents)) / len(contents) / clips.seconds / 1000
    return Material(str(folder / "shards"), str(folder / "tokenizer"), rate)


def encode_clip(clips: Clips, seed: int) -> bytes:
    """Encode one clip as x264 does by default in its ``veryfast`` preset, 16 by 9."""
    target = io.BytesIO()
    width = clips.height * 16 // 9 // 2 * 2
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, clips.height, "yuv420p"
        stream.codec_context.thread_count = 1
        for index, picture in enumerate(_pictures(clips.height, width, clips.seconds * FRAMES_PER_SECOND, seed)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def _pictures(height: int, width: int, count: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Frames ``[H, W, 3]`` of a picture with a photograph's spectrum that moves sideways, with camera noise."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(height, width)) ** 1.2
    phases = np.exp(2j * np.pi * generator.random(amplitude.shape))
    grey = np.fft.irfft2(amplitude * phases, (height, width))
    grey = 120 + 45 * grey / grey.std()
    picture = np.stack([grey, 0.9 * grey + 10, 0.8 * grey + 20], axis=-1).astype(np.int16)
    noise = generator.normal(0, _NOISE, (_NOISE_PICTURES, height, width, 1)).astype(np.int16)
    for index in range(count):
        noisy = np.roll(picture, 2 * index, axis=1) + np.roll(noise[index % _NOISE_PICTURES], 7 * index, axis=0)
        yield noisy.clip(0, 255).astype(np.uint8)


def _record(questions: int) -> dict[str, Any]:
    conversations = []
    for number in range(questions):
        asked = {"role": "user", "content": f"{VIDEO_MARK}\n{_QUESTION.format(number=number + 1)}"}
        conversations.append({"id": f"question{number}", "turns": [asked, {"role": "assistant", "content": _ANSWER}]})
    return {"source": "made clips", "conversations": conversations}
