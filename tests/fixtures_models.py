"""Tiny parts and whole models for tests. Plain functions; no fixture, no state."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

from benchmarks.tiny_parts import write_encoder, write_pixel_settings
from components.bridges.readouts.cache import CacheReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.building import ReaderSettings
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.interfaces import VisualReader
from components.language.causal import HuggingFaceCausalLM
from components.model import VideoLanguageModel
from components.readers.fine_frames import FineFrames
from components.segmenters.fixed_length import FixedLength
from datamodules.batch import AskedTurn, Batch, EncodedConversation, Question, Sample, SampleMedia, collate
from datamodules.conversations import build_turns, load_tokenizer
from datamodules.shards.schema import VIDEO_MARK, Turn
from lightning_modules.optimization import Optimization
from lightning_modules.video_language import VideoLanguageModule
from tests.components.selection.tiny_dual_encoder import make_dual_encoder
from tests.components.tiny_language import make_model_folder

VISION_WIDTH = 32
IMAGE_SIZE = 28
NUM_PATCHES = 4
RATES = {"bridge": 1e-3, "language_model": 1e-3}
# What shifts all scores of a softmax alike has a gradient that is zero up to rounding, and Adam steps by its sign: no
# two ways to compute agree on it.
WITHOUT_GRADIENT = ("attention.key_value.bias",)

TWO_STREAMS = "This is a summary of the video:<memory>These are frames of it:<frames>"
"""Words and streams of a model with a memory and some fine frames."""

Dialogue = list[tuple[str, str]]
"""Question and answer of every turn of a conversation."""


class PartFolders(NamedTuple):
    """Where the tiny encoder and the tiny language model (with its tokenizer) lie."""

    encoder: str
    language_model: str


def make_encoder_folder(folder: Path, *, seed: int = 0) -> Path:
    """Write a one-layer DINOv2 with random weights and its pixel settings: 4 patches of width 32 a frame."""
    # Weights large enough that different pictures look different.
    return write_encoder(folder, IMAGE_SIZE, width=VISION_WIDTH, intermediate_size=48, initializer_range=0.2, seed=seed)


def make_part_folders(folder: Path) -> PartFolders:
    """Write the tiny encoder and the tiny language model."""
    encoder = make_encoder_folder(folder / "encoder")
    return PartFolders(str(encoder), str(make_model_folder(folder / "language_model", max_position_embeddings=256)))


def make_quickstart_parts(folder: Path) -> None:
    """Write stand-ins for the quickstart's parts at the paths that its configs name: their widths, hardly any depth."""
    encoder = folder / ".cache/membridge/dinov2-small"
    write_encoder(encoder, 84, num_layers=7, width=384, num_attention_heads=4, intermediate_size=32)
    make_dual_encoder(folder / "openai/clip-vit-base-patch32", image_size=96, patch_size=32, joint_dim=512)
    for place in ("runs/quickstart/language_model", ".cache/membridge/smollm2-135m-instruct"):
        make_model_folder(folder / place, max_position_embeddings=256)


def make_recipe_parts(folder: Path) -> None:
    """Write tiny SigLIP and Qwen2 models into folders with the hub names in ``configs/recipes/one_24gb_card.yaml``."""
    encoder = folder / "google/siglip-base-patch16-224"
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=VISION_WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=224
    )
    SiglipVisionModel(config).save_pretrained(encoder)
    write_pixel_settings(encoder, 224)
    make_model_folder(folder / "Qwen/Qwen2.5-1.5B-Instruct", "qwen2", max_position_embeddings=512)


def make_bridge(dim: int = VISION_WIDTH, out_dim: int = 32, **options: Any) -> RecurrentMemoryBridge:
    """A small recurrent bridge: width 16, 3 memory tokens, all replaced, so that nothing is drawn in training."""
    plain = {"width": 16, "num_memory": 3, "num_heads": 2, "recurrence": "replacing", "readout": CacheReadout}
    return RecurrentMemoryBridge(dim, out_dim, **(plain | options))


def make_module(folders: PartFolders, *, seed: int = 0, **changes: Any) -> VideoLanguageModule:
    """A whole LightningModule of tiny parts, its parts built."""
    module = make_unbuilt_module(folders, **changes)
    torch.manual_seed(seed)
    module.configure_model()
    return module


def make_unbuilt_module(
    folders: PartFolders, *, bridge: Callable[[int, int], VisualReader[Any]] | None = make_bridge, **changes: Any
) -> VideoLanguageModule:
    """A whole LightningModule of tiny parts that the trainer builds."""
    settings: dict[str, Any] = {
        "encoder": partial(HuggingFaceVisionEncoder, folders.encoder, layer=-1),
        "bridge": bridge,
        "language_model": partial(HuggingFaceCausalLM, folders.language_model),
        "segmenter": FixedLength(2),
        "optimization": Optimization(RATES),
        "max_new_tokens": 3,
    }
    return VideoLanguageModule(**(settings | changes))


def make_two_readers(
    memory: Callable[[int, int], VisualReader[Any]] = make_bridge, **frames: Any
) -> dict[str, ReaderSettings]:
    """A memory beside three fine frames, whose store of four is full after a short video."""
    fine_frames = partial(FineFrames, **({"num_frames": 3, "capacity": 4} | frames))
    return {"memory": ReaderSettings(memory), "frames": ReaderSettings(fine_frames)}


def make_two_reader_model(
    folders: PartFolders, memory: Callable[[int, int], VisualReader[Any]] = make_bridge, **changes: Any
) -> VideoLanguageModel:
    """A whole model with a memory and fine frames, in evaluation mode; its memory carries what it has seen."""
    settings = {"bridge": None, "readers": make_two_readers(memory), "visual_prompt": TWO_STREAMS}
    model = make_model(folders, **(settings | changes))
    open_gate(model.readers["memory"])  # type: ignore[arg-type]
    return model


def make_model(folders: PartFolders, **changes: Any) -> VideoLanguageModel:
    """A whole model of tiny parts, in evaluation mode."""
    return make_module(folders, **changes).built.eval()


def open_gate(bridge: RecurrentMemoryBridge, value: float = 0.7) -> None:
    """Let the bridge carry memory, as it has learned to after some training; it starts with the gate at zero."""
    torch.nn.init.constant_(bridge.gate, value)


def make_frames(num_frames: int, *, seed: int = 0) -> Tensor:
    """Random pictures, uint8 ``[T, 3, H, W]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, generator=generator)


def make_sample(
    folders: PartFolders,
    key: str,
    frames: Tensor | None,
    dialogues: list[Dialogue],
    *,
    category: str = "colour",
    meta: dict[str, str] | None = None,
) -> Sample:
    """A sample as the dataset gives it; frame ``i`` is shown at ``i`` seconds."""
    tokenizer = load_tokenizer(folders.language_model)
    num_frames = 0 if frames is None else len(frames)
    conversations = []
    for number, dialogue in enumerate(dialogues):
        turns = []
        for place, (question, answer) in enumerate(dialogue):
            mark = f"{VIDEO_MARK}\n" if frames is not None and place == 0 else ""
            turns += [Turn("user", mark + question), Turn("assistant", answer)]
        encoded = build_turns(turns, tokenizer)
        first, *later = (AskedTurn(*pair) for pair in dialogue)
        question = Question(
            key, f"q{number}", "made", category, *first, (), num_frames, meta or {}, later_turns=tuple(later)
        )
        shown = () if frames is None else (0,)
        conversations.append(EncodedConversation(encoded.input_ids, encoded.labels, question, shown))
    media = () if frames is None else (SampleMedia(frames, torch.arange(num_frames) * 1000),)
    return Sample(key, media, tuple(conversations))


def make_mixed_samples(folders: PartFolders) -> list[Sample]:
    """Every kind of sample: a video with two conversations, plain text, an image, a video of another length."""
    return [
        make_sample(
            folders,
            "two-questions",
            make_frames(5, seed=1),
            [[("which colour ?", "red")], [("which shape ?", "circle"), ("and then ?", "blue square")]],
        ),
        make_sample(folders, "text", None, [[("say hello", "hello")]]),
        make_sample(folders, "image", make_frames(1, seed=2), [[("how many ?", "one two")]]),
        make_sample(folders, "long", make_frames(7, seed=3), [[("which colour ?", "green")]]),
    ]


def make_batch(folders: PartFolders) -> Batch:
    """All samples of ``make_mixed_samples`` in one batch."""
    return collate(make_mixed_samples(folders))
