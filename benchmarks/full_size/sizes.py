"""Sizes of the published parts, which ``configs/model/videollamb_7b.yaml`` reads from the folders of its weights."""

from collections.abc import Mapping
from typing import NamedTuple

Settings = Mapping[str, int | float | str | bool]

# LanguageBind's published ViT-L/14 at 224 pixels, in shape CLIP's (303 million parameters) plus temporal attention.
VIT_LARGE: Settings = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
# Vicuna-7B-v1.5, which is Llama-2-7B in shape.
VICUNA: Settings = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


class Shape(NamedTuple):
    """Sizes of a model's parts; everything else follows the configuration."""

    vision: Settings  # of both encoders' config.json
    language: Settings  # of the language model's config.json
    bridge: Settings  # arguments of the bridge that differ from the configuration's
    pool_grid: int = 12  # side of the grid that each frame's patches are averaged to


class Workload(NamedTuple):
    """What is measured."""

    frames: tuple[int, ...]  # of every video in a training step
    videos: int  # of a training step
    text_tokens: int  # of a conversation, its answer and the video mark included
    answer_tokens: int
    warm_up: int  # steps that are not timed
    steps: int  # steps that are
    first_frames: int  # the first length that is tried for inference
    most_frames: int  # the longest, of a video that is read whole
    most_streamed: int  # the longest, of a video that is streamed
    grain: int  # frames by which the longest video that fits is found
    new_tokens: int  # of the answer in inference


FULL = Shape(VIT_LARGE, VICUNA, {})
# 8 videos are the configuration's batch; 262,144 frames are three days at one a second, 32,768 nine hours.
FULL_WORKLOAD = Workload(
    frames=(16, 320),
    videos=8,
    text_tokens=128,
    answer_tokens=32,
    warm_up=2,
    steps=5,
    first_frames=1024,
    most_frames=262_144,
    most_streamed=32_768,
    grain=2048,
    new_tokens=16,
)
TINY = Shape(
    {**VIT_LARGE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"image_size": 28, "patch_size": 7},
    {**VICUNA, "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    | {"num_attention_heads": 4, "max_position_embeddings": 512},
    {"mlp_width": 48, "num_memory": 4},
    pool_grid=2,
)
TINY_WORKLOAD = Workload(
    frames=(16, 32),
    videos=2,
    text_tokens=12,
    answer_tokens=4,
    warm_up=1,
    steps=2,
    first_frames=8,
    most_frames=48,
    most_streamed=40,
    grain=8,
    new_tokens=2,
)
