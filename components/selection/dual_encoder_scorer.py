"""Scores frames for a question by the text part of a dual encoder, such as CLIP."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoTokenizer
from transformers.models.clip import CLIPTextModelWithProjection
from transformers.models.siglip import SiglipTextModel
from transformers.utils import logging

from components.interfaces import FrameScorer
from components.sharding import active_sharding

_TEXT_MODELS: dict[str, Any] = {"clip": CLIPTextModelWithProjection, "siglip": SiglipTextModel}


class DualEncoderScorer(FrameScorer):
    """Compares frames with the words of a question in the space that a dual encoder shares between pictures and text.

    The score is the cosine similarity of the two embeddings. The text part is frozen. The encoder of the frames must be
    the vision part of the same checkpoint, with ``joint``. A question that is too long is cut at its end.

    Args:
        path: Folder or hub name of a CLIP or SigLIP checkpoint, with its tokenizer.
        dtype: Dtype of the weights.

    Raises:
        ValueError: The checkpoint is of another kind, or lacks weights of the text part.
    """

    def __init__(self, path: str, dtype: Literal["float32", "bfloat16", "float16"] = "float32") -> None:
        super().__init__()
        config = AutoConfig.from_pretrained(path)
        if config.model_type not in _TEXT_MODELS:
            raise ValueError(
                f"the frame scorer {path!r} is a {config.model_type!r} checkpoint, which shares no space between "
                f"pictures and text: take one of {', '.join(_TEXT_MODELS)}"
            )
        text = config.text_config
        if hasattr(config, "projection_dim"):
            text.projection_dim = config.projection_dim  # that of the text part may be a default
        self.text_model = _load(_TEXT_MODELS[config.model_type], path, text, getattr(torch, dtype))
        self.text_model.requires_grad_(False).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.joint_dim = int(getattr(config, "projection_dim", None) or text.projection_size)
        self._pads_to_limit = config.model_type == "siglip"  # and reads the padding, as it was trained
        self._limit = int(text.max_position_embeddings)

    def train(self, mode: bool = True) -> "DualEncoderScorer":
        """Set the mode; the frozen text part stays in evaluation mode."""
        super().train(mode)
        self.text_model.eval()
        return self

    @torch.no_grad()
    def forward(self, joint: Tensor, questions: Sequence[str]) -> Tensor:
        """Cosine similarity of every question and every frame; see ``FrameScorer``."""
        padding = "max_length" if self._pads_to_limit else True
        read = self.tokenizer(
            list(questions), padding=padding, truncation=True, max_length=self._limit, return_tensors="pt"
        )
        if self._pads_to_limit:
            read.pop("attention_mask", None)
        output = self.text_model(**{name: each.to(joint.device, non_blocking=True) for name, each in read.items()})
        text = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
        return functional.normalize(text.float(), dim=1) @ functional.normalize(joint.float(), dim=1).T


def _load(model_class: Any, path: str, config: Any, dtype: torch.dtype) -> Any:
    loaded = dtype if active_sharding() is None else "auto"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # hides the list of tensors of the vision part
    try:
        model, loading = model_class.from_pretrained(path, config=config, dtype=loaded, output_loading_info=True)
    finally:
        logging.set_verbosity(verbosity)
    if loading["missing_keys"]:
        raise ValueError(
            f"the frame scorer {path!r} lacks weights of the text part, so they would be random: "
            f"{'; '.join(sorted(loading['missing_keys'])[:8])}"
        )
    return model
