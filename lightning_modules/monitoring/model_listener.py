"""Records outputs of encoder and first reader while a model runs, so that nothing is computed twice."""

from typing import Any

import torch
from torch import Tensor, nn

from components.interfaces import FrameFeatures, SegmentInput, VideoTextBatch
from components.model import VideoLanguageModel, text_of
from components.segmenters.depth import adjacent_similarity, depth_scores
from components.sharding import is_sharded
from lightning_modules.monitoring.video_figures import SegmentedVideo


class ModelListener:
    """Records the outputs of the encoder and of the first reader for the current batch.

    Args:
        model: The model; its outputs are recorded until ``remove``.
    """

    def __init__(self, model: VideoLanguageModel) -> None:
        self.model = model
        self._reader = next(iter(model.readers.values()))
        self._features: FrameFeatures | None = None
        self._state: Any = None
        self._has_segment: list[Tensor] = []  # [V] bool a recurrent step
        self._handles = [
            model.encoder.register_forward_hook(self._on_encoded),
            self._reader.register_forward_hook(self._on_segment_read),
        ]

    def segment_counts(self) -> Tensor:
        """Segments of every video of the batch, ``[V]`` int64."""
        return torch.stack(self._has_segment).sum(dim=0)

    def describe_videos(self, batch: VideoTextBatch) -> list[SegmentedVideo]:
        """Collect the data to draw of every video of the batch, on the CPU.

        Makes no collective call, so a single rank may call it.

        Args:
            batch: The batch; holds at least one video.

        Returns:
            One record for each video, without title.
        """
        assert self._features is not None, "asked before the model ran"
        counts = batch.frame_counts.tolist()
        segment_index = self.model.segmenter.segment(self._features.cls, batch.frame_counts)
        attention = self._segment_attention(batch)
        videos = []
        first = 0
        for video, num_segments in enumerate(self.segment_counts().tolist()):
            own = slice(first, first + counts[video])
            first = own.stop
            similarity = adjacent_similarity(self._features.cls[own]).cpu()
            videos.append(
                SegmentedVideo(
                    title="",
                    frames=batch.frames[own].cpu() if batch.frames.ndim == 4 else None,
                    segment_index=segment_index[own].cpu(),
                    similarity=similarity,
                    depth=depth_scores(similarity),
                    segment_attention=None if attention is None else attention[video, :, :num_segments].float().cpu(),
                )
            )
        return videos

    def clear(self) -> None:
        """Remove the records of the batch."""
        self._features = self._state = None
        self._has_segment = []

    def remove(self) -> None:
        """Stop recording."""
        for handle in self._handles:
            handle.remove()

    def _segment_attention(self, batch: VideoTextBatch) -> Tensor | None:
        """Attention of the reader's queries to the segments, ``[V, Q, S]``; None if the reader shows none.

        Where it depends on the question, that of each video's first question. None too if a strategy shards the
        weights.
        """
        if is_sharded(self._reader):  # the first rank draws alone
            return None
        questions = self.model.questions(text_of(batch))
        shown = self._reader.diagnostics(self._state, questions, with_attention=True)
        attention: Tensor | None = shown.segment_attention
        if attention is None or questions is None:
            return attention
        asked = questions.video_index.flatten().tolist()
        return attention[[asked.index(video) for video in range(batch.frame_counts.numel())]]

    def _on_encoded(self, _module: nn.Module, _inputs: Any, output: FrameFeatures) -> None:
        self._features = output

    def _on_segment_read(self, _module: nn.Module, inputs: tuple[SegmentInput, Any], state: Any) -> None:
        self._has_segment.append(inputs[0].frame_mask.any(dim=1))
        self._state = state
