"""Models of several readers, and batches about several media, for tests. Plain functions; no fixture, no state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from components.bridges.mean_pooling import MeanPooling
from components.building import ReaderSettings
from components.interfaces import IGNORED_LABEL, TEXT_ONLY, KeptTokens, SegmentInput, SegmentReducer
from datamodules.batch import Batch, Question
from datamodules.conversations import build_turns, load_tokenizer
from datamodules.shards.schema import VIDEO_MARK, Turn
from lightning_modules.optimization import Optimization
from lightning_modules.video_language import VideoLanguageModule
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_bridge, make_unbuilt_module

VISUAL_PROMPT = "first :<memory>then :<frames>"
RATES_OF_STREAMS = {"memory": 1e-3, "frames": 1e-3, "reducers": 1e-3, "language_model": 1e-3}


class HalfOfTokens(SegmentReducer[Tensor]):
    """Keeps every second token, scaled by a weight; its state counts the segments of every video, ``[V]``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, segment: SegmentInput, state: Tensor | None) -> tuple[SegmentInput, Tensor]:
        is_kept = (segment.token_groups + segment.token_cells) % 2 == 0
        kept = KeptTokens(segment.token_mask & is_kept, segment.token_groups, segment.token_cells)
        has_segment = segment.frame_mask.any(dim=1).long()
        count = has_segment if state is None else state + has_segment
        return segment._replace(tokens=segment.tokens * self.scale, kept=kept), count


def make_module_of_streams(folders: PartFolders, **changes: Any) -> VideoLanguageModule:
    """A module that the trainer builds: a memory of half of the tokens, and the mean of the frames, with words."""
    readers = {"memory": ReaderSettings(make_bridge, reducer=HalfOfTokens), "frames": ReaderSettings(MeanPooling)}
    settings = {
        "bridge": None,
        "readers": readers,
        "visual_prompt": VISUAL_PROMPT,
        "optimization": Optimization(RATES_OF_STREAMS),
    }
    return make_unbuilt_module(folders, **(settings | changes))


def with_streams(config: Path, **model: Any) -> Path:
    """Give the model of a run's config two readers, as ``make_module_of_streams`` does, and more settings."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    bridge = settings["model"].pop("bridge")
    readers = {
        "memory": {"reader": bridge, "reducer": f"{__name__}.HalfOfTokens"},
        "frames": {"reader": "components.bridges.mean_pooling.MeanPooling"},
    }
    settings["model"] |= {"readers": readers, "visual_prompt": VISUAL_PROMPT}
    settings["model"]["optimization"]["learning_rates"] = dict.fromkeys(RATES_OF_STREAMS, 0.01)
    settings["model"] |= model
    path = config.with_name("streams.yaml")
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")  # readers in this order
    return path


class Asked(NamedTuple):
    """A question about some of a batch's media."""

    media: tuple[int, ...]  # numbers of the videos, in the order of their marks
    question: str
    answer: str
    key: str = "several"


def make_media_batch(folders: PartFolders, media: Sequence[Tensor], conversations: Sequence[Asked]) -> Batch:
    """Join media and conversations to a batch; frame ``i`` of every video is shown at ``i`` seconds.

    Args:
        folders: The tokenizer is that of the language model.
        media: uint8 frames ``[T, 3, H, W]`` of every video or image.
        conversations: Questions about them; at least one.
    """
    tokenizer = load_tokenizer(folders.language_model)
    dialogues = [
        [Turn("user", VIDEO_MARK * len(each.media) + each.question), Turn("assistant", each.answer)]
        for each in conversations
    ]
    encoded = [build_turns(turns, tokenizer) for turns in dialogues]
    questions = tuple(
        Question(each.key, f"q{number}", "made", "colour", each.question, each.answer, (), 0, {})
        for number, each in enumerate(conversations)
    )
    most = max(1, *(len(each.media) for each in conversations))
    shown = [[*each.media, *[TEXT_ONLY] * (most - len(each.media))] for each in conversations]
    lengths = torch.tensor([len(each.input_ids) for each in encoded])
    no_frames = torch.zeros(0, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    return Batch(
        frames=torch.cat([no_frames, *media]),
        frame_counts=torch.tensor([len(frames) for frames in media], dtype=torch.int64),
        frame_ms=torch.cat([torch.arange(len(frames)) * 1000 for frames in [no_frames, *media]]),
        picture_sizes=torch.zeros(len(media), 2, dtype=torch.int64),
        input_ids=_padded([each.input_ids for each in encoded], 0),
        text_mask=torch.arange(int(lengths.max())) < lengths[:, None],
        labels=_padded([each.labels for each in encoded], IGNORED_LABEL),
        video_index=torch.tensor(shown),
        questions=questions,
    )


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
