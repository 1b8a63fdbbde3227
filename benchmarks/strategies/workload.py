"""The training run of every strategy: generated parts and data, the same global batches."""

import json
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from transformers import LlamaForCausalLM

from apps.quickstart.tokenizer import train_tokenizer
from benchmarks.tiny_parts import llama_config, write_encoder
from components.bridges.readouts.cache import CacheReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.language.causal import HuggingFaceCausalLM
from components.segmenters.fixed_length import FixedLength
from datamodules.batch import (
    IGNORED_LABEL,
    VIDEO_PLACEHOLDER,
    Batch,
    EncodedConversation,
    Question,
    Sample,
    SampleMedia,
    collate,
)
from lightning_modules.optimization import Optimization
from lightning_modules.video_language import VideoLanguageModule

_IMAGE_SIZE = 28  # four patches
_WORDS = 24
_ANSWER_WORDS = 6
_MOST_FRAMES = 8
_RATE = 1e-4


class Sizes(NamedTuple):
    """Shape of the model and length of the run; the encoder is frozen, bridge and language model train."""

    layers: int = 6
    width: int = 512
    vocabulary: int = 4000
    encoder_layers: int = 6
    encoder_width: int = 256
    videos: int = 4  # of a global batch
    steps: int = 6


class Settings(NamedTuple):
    """Settings of the run, the same for every rank and strategy."""

    sizes: Sizes
    device: Literal["cpu", "cuda"]

    def write(self, path: Path) -> None:
        """Write a JSON file."""
        path.write_text(json.dumps({"sizes": self.sizes._asdict(), "device": self.device}), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read what ``write`` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        return cls(Sizes(**stored["sizes"]), stored["device"])


def write_parts(folder: Path, sizes: Sizes) -> None:
    """Write encoder and language model, of random weights, as the folders that parts are loaded from."""
    write_encoder(folder / "encoder", _IMAGE_SIZE, num_layers=sizes.encoder_layers, width=sizes.encoder_width)
    train_tokenizer(iter(["which colour has the square ?"])).save_pretrained(folder / "language_model")
    config = llama_config(sizes.vocabulary, sizes.width, sizes.layers, pad_token_id=0, eos_token_id=3)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "language_model")


def make_module(folder: Path) -> VideoLanguageModule:
    """The module, before its parts are built."""
    return VideoLanguageModule(
        encoder=partial(HuggingFaceVisionEncoder, str(folder / "encoder"), layer=-1),
        # The gate of the selective memory is random and differs between ranks: losses would not be comparable.
        bridge=partial(RecurrentMemoryBridge, num_memory=8, recurrence="replacing", readout=CacheReadout),
        language_model=partial(HuggingFaceCausalLM, str(folder / "language_model")),
        segmenter=FixedLength(2),
        optimization=Optimization({"bridge": _RATE, "language_model": _RATE}),
    )


def make_batches(sizes: Sizes, rank: int, num_ranks: int) -> list[Batch]:
    """A rank's part of every global batch; videos have different lengths.

    Raises:
        ValueError: A rank would have no video.
    """
    if sizes.videos < num_ranks:
        raise ValueError(f"{num_ranks} processes cannot share a batch of {sizes.videos} videos: raise --videos")
    batches = []
    for step in range(sizes.steps):
        samples = [_make_sample(sizes, step * sizes.videos + number) for number in range(sizes.videos)]
        batches.append(collate(samples[rank::num_ranks]))
    return batches


def _make_sample(sizes: Sizes, number: int) -> Sample:
    generator = torch.Generator().manual_seed(number)
    num_frames = _MOST_FRAMES - number % 3
    shape = (num_frames, 3, _IMAGE_SIZE, _IMAGE_SIZE)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    ids = torch.randint(4, sizes.vocabulary, (_WORDS,), generator=generator)
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[-_ANSWER_WORDS:] = ids[-_ANSWER_WORDS:]
    ids[2] = VIDEO_PLACEHOLDER
    question = Question(f"made-{number}", "q", "made", "any", "?", "!", (), num_frames, {})
    media = (SampleMedia(frames, torch.arange(num_frames) * 1000),)
    return Sample(question.key, media, (EncodedConversation(ids, labels, question, (0,)),))
