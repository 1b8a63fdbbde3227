"""Small real data for tests: a tokenizer, clips, images and shards. Plain functions; no fixture, no state."""

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from datamodules.shards.shard_writer import ShardWriter

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "\n",
    *re.findall(
        r"\w+|\S",
        "system user assistant you are a helpful model which what is the colour color shape shown in video image when "
        "was it at beginning end none red green blue yellow white black circle square star triangle yes no how many "
        "one two three hello say more and then answer ? . , !",
    ),
]

RawSample = tuple[str, Mapping[str, Any], bytes | None, str | None]
"""Key, JSON record, media bytes, media ending."""


def make_tiny_tokenizer(folder: Path, words: Sequence[str] = WORDS, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Write a word-level tokenizer with ChatML's template; other words become ``<unk>``."""
    special = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\n|[^\w\s]"), "isolated"), pre_tokenizers.Split(Regex(" +"), "removed")]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        chat_template=chat_template,
    )
    wrapped.save_pretrained(folder)
    return folder


def frame_level(index: int) -> int:
    """Grey level of frame ``index`` of a made clip: neighbours differ by more than any coding error."""
    return 16 + (index * 37) % 224


def make_clip(
    num_frames: int,
    *,
    width: int = 64,
    height: int = 48,
    fps: int = 4,
    keyframe_interval: int = 12,
    container: str = "mp4",
    codec: str = "libx264",
    frames: np.ndarray | None = None,
) -> bytes:
    """Encode a clip.

    Args:
        num_frames: Frames of the clip; frame ``i`` is one grey of ``frame_level(i)``.
        width: Pixels.
        height: Pixels.
        fps: Frames per second.
        keyframe_interval: Frames from one keyframe to the next.
        container: Format that av writes, such as ``mp4`` or ``webm``.
        codec: Encoder, such as ``libx264``.
        frames: uint8 ``[num_frames, height, width, 3]`` to encode instead.

    Returns:
        The file's bytes.
    """
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = keyframe_interval
        stream.codec_context.thread_count = 1  # more threads wait for each other on a busy machine
        for index in range(num_frames):
            grey = np.full((height, width, 3), frame_level(index), dtype=np.uint8)
            pixels = grey if frames is None else frames[index]
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))
    return target.getvalue()


def make_gif(num_frames: int, *, width: int = 64, height: int = 48, fps: int = 4) -> bytes:
    """Encode an animation; frame ``i`` is one grey of ``frame_level(i)``."""
    target = io.BytesIO()
    pictures = [Image.new("RGB", (width, height), (frame_level(index),) * 3) for index in range(num_frames)]
    pictures[0].save(target, "gif", save_all=True, append_images=pictures[1:], duration=1000 // fps)
    return target.getvalue()


def natural_frames(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Frames with the spectrum of photographs, mostly grey, that drift sideways: uint8 ``[T, H, W, 3]``."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(height, width)) ** 1.2

    def field(deviation: float) -> np.ndarray:
        noise = np.fft.irfft2(amplitude * np.exp(2j * np.pi * generator.random(amplitude.shape)), (height, width))
        return noise / noise.std() * deviation

    grey = 120 + field(45.0)
    picture = np.stack([grey + field(10.0) for _ in range(3)], axis=-1).clip(0, 255).astype(np.uint8)
    return np.stack([np.roll(picture, 2 * index, axis=1) for index in range(num_frames)])


def make_image(level: int = 128, *, width: int = 64, height: int = 48, form: str = "png") -> bytes:
    """Encode a picture of one grey."""
    target = io.BytesIO()
    Image.new("RGB", (width, height), (level, level, level)).save(target, form)
    return target.getvalue()


def make_record(
    questions: Sequence[tuple[str, str]] = (("which colour ?", "red"),),
    *,
    media: bool = True,
    source: str = "made",
    category: str = "colour",
    **extra: Any,
) -> dict[str, Any]:
    """A sample's JSON with one conversation for every (question, answer); ``extra`` such as ``meta`` is added."""
    mark = "<video>\n" if media else ""
    conversations = [
        {
            "id": f"q{number}",
            "category": category,
            "turns": [{"role": "user", "content": mark + question}, {"role": "assistant", "content": answer}],
        }
        for number, (question, answer) in enumerate(questions)
    ]
    return {"source": source, "conversations": conversations, **extra}


def with_later_turns(record: dict[str, Any], *turns: tuple[str, str], conversation: int = 0) -> dict[str, Any]:
    """The record with more questions and answers at the end of one of its conversations."""
    conversations = [dict(each) for each in record["conversations"]]
    later = [
        {"role": role, "content": text}
        for pair in turns
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    conversations[conversation]["turns"] = [*conversations[conversation]["turns"], *later]
    return {**record, "conversations": conversations}


def make_samples(num_samples: int, *, num_frames: int = 3, start: int = 0) -> list[RawSample]:
    """Samples of one clip and one question each, named ``sample000`` and on."""
    clip = make_clip(num_frames)
    record = make_record(meta={"num_frames": num_frames})
    return [(f"sample{number:03d}", record, clip, "mp4") for number in range(start, start + num_samples)]


def write_shard(path: Path, samples: Sequence[RawSample]) -> Path:
    """Write samples as one shard of this name, through the project's own writer."""
    with ShardWriter(path.with_suffix(""), max_samples=max(1, len(samples))) as writer:
        for key, record, media, ending in samples:
            writer.write(key, record, media, ending)
    return writer.paths[0].replace(path)


def write_members(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """Write a tar of these names and bytes, unchecked: for shards that are wrong."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
