"""Records outputs of encoder and readers while a model runs, so that nothing is computed twice."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from components.interfaces import TEXT_ONLY, FrameFeatures, SegmentInput, TextInputs, VideoTextBatch, VisualReader
from components.model import VideoLanguageModel, text_of
from components.segmenters.depth import adjacent_similarity, depth_scores
from components.sharding import is_sharded
from components.watched_frames import segments_of_frames
from lightning_modules.monitoring.video_figures import SegmentedVideo


class ModelListener:
    """Records the outputs of the encoder and of all readers for the current batch.

    Args:
        model: The model; its outputs are recorded until ``remove``.
    """

    def __init__(self, model: VideoLanguageModel) -> None:
        self.model = model
        self._features: FrameFeatures | None = None
        self._scores: Tensor | None = None
        self._states: dict[str, Any] = {}  # of every reader after the last recurrent step
        self._has_segment: dict[str, list[Tensor]] = {}  # of every reader, [V] bool a recurrent step
        hooks = {name: partial(self._on_segment_read, name) for name in model.readers}
        self._handles = [
            model.encoder.register_forward_hook(self._on_encoded),
            *([] if model.frame_scorer is None else [model.frame_scorer.register_forward_hook(self._on_scored)]),
            *(reader.register_forward_hook(hooks[name]) for name, reader in model.readers.items()),
        ]

    def segment_counts(self) -> Tensor:
        """Segments of every video of the batch, ``[V]`` int64; of every row where the question decides what is read."""
        of_any_reader = next(iter(self._has_segment.values()))  # all read the same segments
        return torch.stack(of_any_reader).sum(dim=0)

    def describe_videos(self, batch: VideoTextBatch) -> list[SegmentedVideo]:
        """Collect the data to draw of every video of the batch, on the CPU.

        Of a video of which every conversation reads other frames, those of its first one are described. Makes no
        collective call, so a single rank may call it.

        Args:
            batch: The batch; holds at least one video.

        Returns:
            One record for each video, without title.
        """
        assert self._features is not None, "asked before the model ran"
        cls, frames, frame_counts = self._features.cls, batch.frames, batch.frame_counts
        text = text_of(batch)
        watched = self.model.watched_frames(
            self.model.packed_videos(batch), self._features, self._scores, text.video_index
        )
        if watched is not None:
            cls, frames = (each[watched.frame_index.to(each.device)] for each in (cls, frames))
            frame_counts = watched.frame_counts
        counts = frame_counts.tolist()
        segment_index = segments_of_frames(self.model.segmenter, self._features, batch.frame_counts, watched)
        attention = self._segment_attention(self.model.by_rows(text), len(counts))
        videos = []
        first = 0
        for video, num_segments in enumerate(self.segment_counts().tolist()):
            own = slice(first, first + counts[video])
            first = own.stop
            shown = None if attention is None else attention[video]
            similarity = adjacent_similarity(cls[own]).cpu()
            videos.append(
                SegmentedVideo(
                    title="",
                    frames=frames[own].cpu() if frames.ndim == 4 else None,
                    segment_index=segment_index[own].cpu(),
                    similarity=similarity,
                    depth=depth_scores(similarity),
                    segment_attention=None if shown is None else shown[:, :num_segments].float().cpu(),
                )
            )
        return videos if self._scores is None else [videos[row] for row in _first_rows(text.video_index)]

    def clear(self) -> None:
        """Remove the records of the batch."""
        self._features = self._scores = None
        self._states, self._has_segment = {}, {}

    def remove(self) -> None:
        """Stop recording."""
        for handle in self._handles:
            handle.remove()

    def _segment_attention(self, text: TextInputs, num_videos: int) -> list[Tensor | None] | None:
        """What the queries of the first reader that shows it attend to, ``[Q, S]`` a video; None if no reader does.

        Where it depends on the question, that of each video's first question. Readers whose weights a strategy shards
        are passed over.
        """
        for name, reader in self.model.readers.items():
            attention = self._attention_of(name, reader, text, num_videos)
            if attention is not None:
                return attention[:num_videos]
        return None

    def _attention_of(
        self, name: str, reader: VisualReader[Any], text: TextInputs, num_videos: int
    ) -> list[Tensor | None] | None:
        asks = reader.reads_questions
        # The first rank draws alone, so it must not call what gathers weights from all ranks.
        if is_sharded(reader) or (asks and is_sharded(self.model.language_model)):
            return None
        questions = self.model.questions(text) if asks else None
        attention = reader.diagnostics(self._states[name], questions, with_attention=True).segment_attention
        if attention is None:
            return None
        if questions is None:
            return list(attention)
        shown = questions.video_index.flatten().tolist()  # a row of the attention for every medium of a conversation
        return [attention[shown.index(video)] if video in shown else None for video in range(num_videos)]

    def _on_encoded(self, _module: nn.Module, _inputs: Any, output: FrameFeatures) -> None:
        self._features = output

    def _on_scored(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._scores = output

    def _on_segment_read(self, name: str, _module: nn.Module, inputs: tuple[SegmentInput, Any], state: Any) -> None:
        self._has_segment.setdefault(name, []).append(inputs[0].frame_mask.any(dim=1))
        self._states[name] = state


def _first_rows(video_index: Tensor) -> list[int]:
    """The first medium of a conversation that shows each video, counted over all conversations."""
    shown = video_index.flatten().tolist()
    return [shown.index(video) for video in sorted(set(shown) - {TEXT_ONLY})]
