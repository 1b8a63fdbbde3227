"""The records that parts pass to each other. The page ``components/interfaces/__init__.py`` explains the letters."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

IGNORED_LABEL = -100
"""Label of a text token that is not scored."""

VIDEO_PLACEHOLDER = -200
"""Id in ``input_ids`` at the position where the visual tokens are inserted. No vocabulary has it."""

TEXT_ONLY = -1
"""``video_index`` where a conversation has no (further) medium."""


class FrameFeatures(NamedTuple):
    """The encoder's output for the packed frames."""

    cls: Tensor  # [F, D]
    patches: Tensor  # [F, N, D]
    saliency: Tensor | None = None  # [F, N] float32, how much each patch matters to the frame; None where not computed
    joint: Tensor | None = None  # [F, J] embedding of the frame in a space that it shares with text; None without one

    @classmethod
    def joined(cls, parts: Sequence["FrameFeatures"]) -> "FrameFeatures":
        """The features of several runs of frames, one after the other; all have the same optional fields."""
        saliency = [part.saliency for part in parts if part.saliency is not None]
        joint = [part.joint for part in parts if part.joint is not None]
        return cls(
            torch.cat([part.cls for part in parts]),
            torch.cat([part.patches for part in parts]),
            torch.cat(saliency) if saliency else None,
            torch.cat(joint) if joint else None,
        )

    def of_frames(self, frames: slice) -> "FrameFeatures":
        """The features of some of the frames."""
        saliency = None if self.saliency is None else self.saliency[frames]
        joint = None if self.joint is None else self.joint[frames]
        return FrameFeatures(self.cls[frames], self.patches[frames], saliency, joint)


class WholeVideo(NamedTuple):
    """What is known of a complete video when its frames are chosen; on the host."""

    num_frames: int  # T
    frame_ms: Tensor  # [T] int64, time of every frame in milliseconds
    features: Tensor | None = None  # [T, J] float32, joint embedding of each frame; without one its class vector
    scores: Tensor | None = None  # [T] float32, how well every frame fits the question; None without a question

    @classmethod
    def of_length(cls, num_frames: int) -> "WholeVideo":
        """A video of ``num_frames`` frames, one a second, of which nothing else is known."""
        return cls(num_frames, torch.arange(num_frames) * 1000)


class FrameGroups(NamedTuple):
    """Which frames of every segment a reader reads; the frames of one group are neighbours and are averaged."""

    first: Tensor  # [V, S, L] int64, position in its segment of each group's first frame, ascending
    num_frames: Tensor  # [V, S, L] int64, frames of each group; 0 where a segment has fewer groups than L


class Segments(NamedTuple):
    """Which of the packed frames a reader reads in segment ``s`` of video ``v``; on the host."""

    frame_index: Tensor  # [V, S, L, G] int64 into the packed frames; 0 where masked
    frame_mask: Tensor  # [V, S, L, G] bool; a group's frames come first and are neighbours
    frame_number: Tensor  # [V, S, L] int64, position in its video of each group's middle frame; 0 where masked

    @property
    def group_mask(self) -> Tensor:
        """Groups that have a frame, ``[V, S, L]`` bool."""
        return self.frame_mask.any(dim=3)

    @property
    def middle_index(self) -> Tensor:
        """Each group's middle frame, ``[V, S, L]`` int64 into the packed frames."""
        middle = (self.frame_mask.sum(dim=3).clamp(min=1) - 1) // 2
        return self.frame_index.gather(3, middle[..., None]).squeeze(3)


class TokenPlaces(NamedTuple):
    """Where in its video each token was seen; -1 for a token that no frame or no cell belongs to, such as a word."""

    frame: Tensor  # [..., P] int64, position of the token's frame in its video
    cell: Tensor  # [..., P] int64, cell of the frame's grid, row-major
    ms: Tensor  # [..., P] int64, time of the frame in milliseconds


class KeptTokens(NamedTuple):
    """Which tokens of a segment are left, where not all cells of all its frames are."""

    mask: Tensor  # [V, P] bool
    group: Tensor  # [V, P] int64, frame group of the segment that the token is of; in 0..L-1, also where masked
    cell: Tensor  # [V, P] int64, cell of the frame's grid; in 0..N-1, also where masked


class SegmentInput(NamedTuple):
    """What a reader reads in one recurrent step: segment ``s`` of every video at once.

    Usually the tokens are a full grid: all N cells of every frame group, one group after the other, so P = L * N. A
    ``SegmentReducer`` may leave fewer; then ``kept`` says which.
    """

    tokens: Tensor  # [V, P, D]; of a full grid means over each frame group
    frame_mask: Tensor  # [V, L] bool; a row without any True is a video that has no such segment
    frame_ms: Tensor  # [V, L] int64, time of each group's middle frame in its video
    frame_number: Tensor  # [V, L] int64, position of that frame in its video
    num_cells: int  # N, cells of a frame's grid
    kept: KeptTokens | None = None  # None: a full grid
    saliency: Tensor | None = None  # [V, P] float32, see FrameFeatures; None where the encoder gives none
    is_in_all: bool = False  # whether the host knows that every video has this segment
    is_full: bool = False  # whether the host knows that frame_mask is True everywhere

    @classmethod
    def from_grid(cls, patches: Tensor, frame_mask: Tensor, frame_ms: Tensor) -> "SegmentInput":
        """A full grid of patches ``[V, L, N, D]`` whose frames are the first L of their videos."""
        number = torch.arange(patches.shape[1], device=patches.device).expand(patches.shape[:2])
        return cls(patches.flatten(1, 2), frame_mask, frame_ms, number, patches.shape[2])

    def of_videos(self, videos: slice) -> "SegmentInput":
        """The segment of some of the videos."""
        kept = None if self.kept is None else KeptTokens(*(field[videos] for field in self.kept))
        saliency = None if self.saliency is None else self.saliency[videos]
        frames = (self.frame_mask[videos], self.frame_ms[videos], self.frame_number[videos])
        return SegmentInput(self.tokens[videos], *frames, self.num_cells, kept, saliency, self.is_in_all, self.is_full)

    @property
    def token_mask(self) -> Tensor:
        """Tokens that are real, ``[V, P]`` bool."""
        return self.frame_mask.repeat_interleave(self.num_cells, dim=1) if self.kept is None else self.kept.mask

    @property
    def token_groups(self) -> Tensor:
        """Frame group of every token, ``[V, P]`` int64 in 0..L-1."""
        if self.kept is not None:
            return self.kept.group
        groups = torch.arange(self.frame_mask.shape[1], device=self.frame_mask.device)
        return groups.repeat_interleave(self.num_cells).expand(len(self.tokens), -1)

    @property
    def token_cells(self) -> Tensor:
        """Cell of every token in its frame's grid, ``[V, P]`` int64 in 0..N-1."""
        if self.kept is not None:
            return self.kept.cell
        cells = torch.arange(self.num_cells, device=self.frame_mask.device)
        return cells.repeat(self.frame_mask.shape[1]).expand(len(self.tokens), -1)

    def grid(self, reader: object) -> Tensor:
        """The tokens as a full grid, ``[V, L, N, D]``.

        Args:
            reader: The part that asks, for the message.

        Raises:
            ValueError: A reducer has left tokens out, so there is no full grid.
        """
        if self.kept is not None:
            raise ValueError(
                f"{type(reader).__name__} reads full grids of patches, but a reducer has left tokens out: remove the "
                "reducer, take one that gives a grid, or take a reader that reads kept tokens"
            )
        grid: Tensor = self.tokens.unflatten(1, (self.frame_mask.shape[1], self.num_cells))
        return grid

    def places(self) -> TokenPlaces:
        """Where every token was seen, ``[V, P]``; -1 where masked."""
        groups, masked = self.token_groups, ~self.token_mask
        fields = (self.frame_number.gather(1, groups), self.token_cells, self.frame_ms.gather(1, groups))
        return TokenPlaces(*(field.masked_fill(masked, -1) for field in fields))


class VisualTokens(NamedTuple):
    """What the language model sees: one row a video, or one row for every medium of a conversation."""

    tokens: Tensor  # [V, Q, E], or [C * M, Q, E] where the reader has read the questions
    mask: Tensor  # [V, Q] or [C * M, Q] bool
    row_index: Tensor | None = None  # [C, M] int64 row of every medium, TEXT_ONLY without one; None: its video's
    places: TokenPlaces | None = None  # as mask; None where the tokens belong to no place, such as memory tokens

    def of_conversation(self, conversation: int) -> "VisualTokens":
        """The visual tokens for one conversation of the batch."""
        rows = self.row_index
        return self if rows is None else self._replace(row_index=rows[conversation : conversation + 1])


class BridgeDiagnostics(NamedTuple):
    """What monitors may show of a bridge; None for what a bridge does not have."""

    memory: Tensor | None = None  # [V, M, D] memory tokens after each video's last real segment
    admitted: Tensor | None = None  # [V, S] in 0..1, how much of each segment the gate admitted to the memory
    segment_attention: Tensor | None = None  # [V, Q, S], or [C, Q, S] with questions; every row sums to 1


class Questions(NamedTuple):
    """What the conversations ask: their text before the first answer, as embeddings of the language model.

    It holds no part of an answer, so training and inference read the same.
    """

    embeddings: Tensor  # [C * M, K, E], the question of a conversation once for each of its media
    mask: Tensor  # [C * M, K] bool, True at the question's tokens; a row may have none
    video_index: Tensor  # [C, M] int64 on the host, see TextInputs


class TextInputs(NamedTuple):
    """Conversations of a batch, padded on the right."""

    input_ids: Tensor  # [C, K] int64, VIDEO_PLACEHOLDER where the visual tokens are inserted
    text_mask: Tensor  # [C, K] bool
    labels: Tensor  # [C, K] int64, IGNORED_LABEL where not scored; not shifted
    video_index: Tensor  # [C, M] int64, video of each placeholder of a conversation in order; TEXT_ONLY beyond them


class AnswerLoss(NamedTuple):
    """Negative log likelihood of every conversation's answer tokens."""

    nll: Tensor  # [C] float32, summed over the answer's tokens
    num_tokens: Tensor  # [C] int64
    num_positions: Tensor | None = None  # [] int64, text and visual tokens that were read; None where unknown
    num_computed_positions: int = 0  # the same with the padding


class VideoTextBatch(Protocol):
    """What the model reads of a batch; ``datamodules.batch.Batch`` has it."""

    @property
    def frames(self) -> Tensor:
        """Packed frames: uint8 ``[F, 3, H, W]``, or cached features ``[F, rows, width]`` (class token first)."""

    @property
    def frame_counts(self) -> Tensor:
        """Frames of every video, ``[V]`` int64 on the host, summing to F."""

    @property
    def frame_ms(self) -> Tensor:
        """Time of every frame in its video, ``[F]`` int64 milliseconds."""

    @property
    def picture_sizes(self) -> Tensor:
        """Height and width of each picture before it was cut into tiles, ``[V, 2]`` int64 on the host.

        Zeros for a video, and for a picture that is read as a video of one frame.
        """

    @property
    def input_ids(self) -> Tensor:
        """See ``TextInputs``; on the host."""

    @property
    def text_mask(self) -> Tensor:
        """See ``TextInputs``; on the host."""

    @property
    def labels(self) -> Tensor:
        """See ``TextInputs``; on the host."""

    @property
    def video_index(self) -> Tensor:
        """See ``TextInputs``; on the host."""
