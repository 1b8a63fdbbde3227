"""An encoder and a language model that the recordings of the complete visual path take the place of real ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.interfaces import AnswerLoss, FrameEncoder, FrameFeatures, TextInputs, VisualTokens
from components.language.cached_language_model import CachedLanguageModel
from components.language.cached_network import CallInputs
from components.language.splice import SplicedInputs, splice


class PixelsAsPatches(FrameEncoder):
    """Every pixel of a frame is a patch, whose width is the number of colours.

    Args:
        dim: Colours.
        num_patches: Pixels of a frame.
    """

    def __init__(self, dim: int, num_patches: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_patches = num_patches

    def forward(self, frames: Tensor, frame_counts: Tensor) -> FrameFeatures:
        """Turn pixels ``[F, 3, H, W]`` into patches ``[F, H * W, 3]``; the class vector is their mean."""
        patches = frames.flatten(2).transpose(1, 2)
        return FrameFeatures(patches.mean(dim=1), patches)

    def dummy_frames(self, device: object) -> Tensor:
        """See ``FrameEncoder``; batches of recordings always have a video."""
        raise NotImplementedError("batches of recordings always have a video")


class RecordingLanguageModel(CachedLanguageModel):
    """Records what a language model would read, and scores nothing.

    Args:
        ids: Ids that have an embedding, ``[W]``.
        rows: Their embeddings, ``[W, E]``.
        words: Token ids of the words in the visual prompt.

    Attributes:
        read: What the last call read.
    """

    read: SplicedInputs

    def __init__(self, ids: Tensor, rows: Tensor, words: dict[str, Sequence[int]]) -> None:
        super().__init__()
        self.dim = rows.shape[1]
        self.rows = nn.Parameter(rows)
        self._row_of = {int(each): row for row, each in enumerate(ids)}
        self._words = words

    def word_ids(self, words: str) -> list[int]:
        """See ``LanguageModel.word_ids``."""
        return list(self._words[words])

    def forward(self, visual: VisualTokens, text: TextInputs) -> AnswerLoss:
        """Record the joined sequence; see ``LanguageModel.forward``."""
        self.read = splice(visual, text, self.embed(text.input_ids))
        scored = (self.read.labels != -100).sum(dim=1)
        return AnswerLoss(torch.zeros(len(scored)), scored)

    def _embed(self, input_ids: Tensor) -> Tensor:
        index = input_ids.clone().apply_(lambda each: self._row_of.get(int(each), 0))
        return self.rows[index]

    def _call(self, inputs: CallInputs) -> Tensor:
        raise NotImplementedError("the recordings have no logits")

    def _new_cache(self) -> Any:
        raise NotImplementedError("the recordings have no logits")
