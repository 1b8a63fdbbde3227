"""A tiny LLaVA-OneVision of random weights for tests: transformers' model, its folders in every layout, our parts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.interfaces import VIDEO_PLACEHOLDER, TextInputs
from components.language.causal import HuggingFaceCausalLM
from components.language.splice import splice
from components.model import VideoLanguageModel, text_of
from components.newline import Newline
from components.pooling.patch_pooling import GridPooling
from components.projectors.mlp import MlpProjector
from components.readers.fine_frames import FineFrames
from components.segmenters.fixed_length import FixedLength
from components.streams import StreamReader
from components.weights.memory_ov_names import TIME_TABLE, TYPE_TABLE, memory_names, memory_shape, time_table
from datamodules.batch import Batch
from tests.components.tiny_language import SIZES, VOCABULARY, make_byte_tokenizer, make_text

IMAGE_SIZE = 54
PATCH_SIZE = 2  # so that a frame has 27 x 27 patches, as that of the published models
FEATURE_LAYER = -1  # the last of those that an import writes
PIXELS: dict[str, Any] = {
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
PINPOINTS = [[rows * IMAGE_SIZE, columns * IMAGE_SIZE] for rows in range(1, 7) for columns in range(1, 7)]
ROPE_THETA = 50_000.0  # not the default
IMAGE_TOKEN, VIDEO_TOKEN = VOCABULARY - 2, VOCABULARY - 1
VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "vision_use_head": False,
}
Layout = Literal["published", "saved", "in_memory", "original"]
"""Names of tensors: as in transformers' published files, as it saves them now, as in its memory; and the authors'."""
_PUBLISHED_NAMES = {
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.language_model.": "language_model.model.",
    "model.": "",
    "lm_head.": "language_model.lm_head.",
}
_ORIGINAL_NAMES = {
    "model.vision_tower.": "model.vision_tower.vision_tower.vision_model.",
    "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
    "model.language_model.": "model.",
}
VISION_FACTS = ["--vision-heads", "2", "--vision-layers", "3", "--vision-image-size", str(IMAGE_SIZE)]
"""What the import must be given for the authors' layout, because the tower has another size than the published one."""
LAYOUTS: tuple[Layout, ...] = ("published", "saved", "in_memory", "original")


def make_onevision(
    *, seed: int = 0, tied: bool = False, vision: dict[str, Any] | None = None
) -> LlavaOnevisionForConditionalGeneration:
    """Transformers' model with random weights, in evaluation mode.

    Args:
        seed: Of the weights.
        tied: Whether the output layer is the table of embeddings, as in the published 0.5B model.
        vision: Settings of the vision tower other than ``VISION``.
    """
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
    text = {**SIZES, "model_type": "qwen2", "initializer_range": 0.2, "tie_word_embeddings": tied}
    text |= {"rope_parameters": rope}
    config = LlavaOnevisionConfig(
        vision_config=VISION | (vision or {}),
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # a bias or a norm, which would be 0 or 1
                parameter += 0.2 * torch.randn_like(parameter)
    model.generation_config.eos_token_id = SIZES["eos_token_id"]
    return model


def save_onevision(
    model: LlavaOnevisionForConditionalGeneration, folder: Path, layout: Layout = "published", **options: Any
) -> Path:
    """Write the model as a folder, with its tokenizer and its pixel settings.

    Args:
        model: The model.
        folder: New folder.
        layout: Names of its tensors.
        **options: Of the library that saves, such as ``max_shard_size``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if layout in ("saved", "in_memory"):
        model.save_pretrained(folder, save_original_format=layout == "saved", **options)
    else:
        names = _PUBLISHED_NAMES if layout == "published" else _ORIGINAL_NAMES
        save_torch_state_dict(renamed_tensors(model, names), folder, **options)
        config = published_config(model) if layout == "published" else original_config(model)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        model.generation_config.save_pretrained(folder)
    if layout != "original":
        (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS), encoding="utf-8")
    return make_byte_tokenizer(folder)


def original_tensors(model: LlavaOnevisionForConditionalGeneration) -> dict[str, Tensor]:
    """The tensors under the names of the authors' code, copied."""
    return renamed_tensors(model, _ORIGINAL_NAMES)


def renamed_tensors(model: LlavaOnevisionForConditionalGeneration, names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors with other beginnings of their names, copied; a tied output layer is left out."""
    found = {}
    for name, tensor in model.state_dict().items():
        start = next((start for start in names if name.startswith(start)), "")
        found[names.get(start, "") + name.removeprefix(start)] = tensor.clone()
    if model.config.tie_word_embeddings:
        del found[names.get("lm_head.", "lm_head.") + "weight"]
    return found


def original_memory(width: int = SIZES["hidden_size"], *, num_layers: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """A Memory-Augmented VLM's tensors beside LLaVA-OneVision's, under its authors' names, random."""
    generator = torch.Generator().manual_seed(seed)
    names = memory_names(num_layers)
    shapes = {f"model.{theirs}": memory_shape(ours, width) for theirs, ours in names.items()}
    shapes["model.recurrent_memory_transformer.initial_memory"] = (8, 196, width)
    shapes["model.recurrent_memory_transformer.memory_pos_embed"] = (8, 1, width)
    shapes[f"model.{TYPE_TABLE}"] = (2, width)
    found = {name: torch.randn(shape, generator=generator) / width**0.5 for name, shape in shapes.items()}
    return found | {f"model.{TIME_TABLE}": time_table(width)}


def published_config(model: LlavaOnevisionForConditionalGeneration) -> dict[str, Any]:
    """The ``config.json`` of transformers' published files, which an early version of it wrote."""
    config: dict[str, Any] = model.config.to_dict()
    tied = {"tie_word_embeddings": False}  # the language model's own setting counts
    return config | tied | {"text_config": _early_settings(config["text_config"]), "torch_dtype": "float16"}


def original_config(model: LlavaOnevisionForConditionalGeneration) -> dict[str, Any]:
    """The ``config.json`` of the authors' code: the language model's settings, and little of the others."""
    return _early_settings(model.config.text_config.to_dict()) | {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava",
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": model.config.vision_config.hidden_size,
        "mm_patch_merge_type": "spatial_unpad",
        "image_aspect_ratio": "anyres_max_9",
    }


def _early_settings(text: dict[str, Any]) -> dict[str, Any]:
    """Settings of a language model as early versions of transformers wrote them."""
    left_out = ("rope_parameters", "dtype", "layer_types", "head_dim")
    return {name: value for name, value in text.items() if name not in left_out} | {"rope_theta": ROPE_THETA}


def changed_copy(original: Path, target: Path, change: Callable[[dict[str, Tensor]], None], **settings: Any) -> Path:
    """A copy of the authors' layout with other tensors and other settings."""
    target.mkdir()
    for path in original.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(original / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    config = json.loads((original / "config.json").read_text(encoding="utf-8")) | settings
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


def write_own_parts(model: LlavaOnevisionForConditionalGeneration, folder: Path) -> Path:
    """Write the files that our parts read, from the model in memory. It does not use the import that tests are about.

    Returns:
        The folder: ``vision_encoder/``, ``projector.safetensors``, ``newline.safetensors``, ``language_model/``.
    """
    inner = model.model
    inner.vision_tower.save_pretrained(folder / "vision_encoder")
    (folder / "vision_encoder" / "preprocessor_config.json").write_text(json.dumps(PIXELS), encoding="utf-8")
    state = inner.multi_modal_projector.state_dict()
    layers = {"linear_1": "layers.0", "linear_2": "layers.2"}
    projector = {f"{layers[part]}.{kind}": tensor for part, kind, tensor in _split(state)}
    save_file(projector, folder / "projector.safetensors")
    save_file({"vector": inner.image_newline.detach().clone()}, folder / "newline.safetensors")
    language = {f"model.{name}": tensor for name, tensor in inner.language_model.state_dict().items()}
    language["lm_head.weight"] = model.lm_head.weight
    target = folder / "language_model"
    target.mkdir()
    save_file({name: tensor.detach().clone() for name, tensor in language.items()}, target / "model.safetensors")
    config = model.config.text_config.to_dict() | {"architectures": ["Qwen2ForCausalLM"]}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model.generation_config.save_pretrained(target)
    make_byte_tokenizer(target)
    return folder


def _split(state: dict[str, Tensor]) -> list[tuple[str, str, Tensor]]:
    return [(*name.split("."), tensor) for name, tensor in state.items()]  # type: ignore[misc]


def random_frames(count: int, *, seed: int = 0) -> Tensor:
    """Frames ``[count, 3, 54, 54]`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, generator=generator)


def pixel_values(frames: Tensor) -> Tensor:
    """Frames as transformers' model reads them, float32."""
    return (frames.float() / 255 - 0.5) / 0.5


def build_from_parts(folder: Path, **changes: Any) -> VideoLanguageModel:
    """Our model from the files of ``write_own_parts`` or of an import: every frame, then a newline.

    Args:
        folder: See above.
        **changes: Other arguments of ``VideoLanguageModel``.
    """
    encoder = HuggingFaceVisionEncoder(str(folder / "vision_encoder"), layer=FEATURE_LAYER)
    language_model = HuggingFaceCausalLM(str(folder / "language_model"))
    width = language_model.dim
    parts: dict[str, Any] = {
        "encoder": encoder,
        "projector": MlpProjector(encoder.dim, width, weights=str(folder / "projector.safetensors")),
        "patch_pooling": GridPooling(width, grid=14, reduction="bilinear"),
        "segmenter": FixedLength(frames=2),
        "readers": {"frames": StreamReader(FineFrames(width, width, projection="none"))},
        "newline": Newline(width, weights=str(folder / "newline.safetensors")),
        "visual_prompt": "<frames><newline>",
        "language_model": language_model,
    }
    return VideoLanguageModel(**parts | changes).eval()


def videos_batch(
    model: VideoLanguageModel, videos: Sequence[Tensor], rows: Sequence[tuple[int, str, str | None]]
) -> Batch:
    """A batch of videos, each as ``random_frames`` makes it, with conversations as ``make_text`` takes them."""
    assert isinstance(model.language_model, HuggingFaceCausalLM)
    text = make_text(model.language_model, rows)
    counts = torch.tensor([len(video) for video in videos])
    times = torch.cat([torch.arange(len(video)) * 1000 for video in videos])
    no_pictures = torch.zeros(len(videos), 2, dtype=torch.int64)
    return Batch(torch.cat(list(videos)), counts, times, no_pictures, *text, questions=())


def logits_of(model: VideoLanguageModel, batch: Batch) -> list[Tensor]:
    """The language model's logits at every position of every conversation, each ``[positions, vocabulary]``."""
    language_model, text = model.language_model, text_of(batch)
    with torch.no_grad():
        inputs = splice(model.visual_tokens(batch), text, language_model.embed(text.input_ids))
        positions = (inputs.mask.cumsum(dim=1) - 1).clamp(min=0)
        network = {"attention_mask": inputs.mask.long(), "position_ids": positions}
        logits = language_model.model(inputs_embeds=inputs.embeddings, **network).logits
    return [row[mask] for row, mask in zip(logits, inputs.mask, strict=True)]


def transformers_inputs(row: TextInputs, video: Tensor) -> dict[str, Tensor]:
    """What transformers' model reads for one conversation about one video.

    Args:
        row: The conversation, see ``row_of``.
        video: Its frames.
    """
    (place,) = (row.input_ids[0] == VIDEO_PLACEHOLDER).nonzero()
    marks = torch.full((len(video) * 14 * 14 + 1,), VIDEO_TOKEN)
    ids = torch.cat([row.input_ids[0, :place], marks, row.input_ids[0, place + 1 :]])[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": pixel_values(video)[None],
    }
