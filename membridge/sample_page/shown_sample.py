"""What a page shows of a sample."""

from typing import NamedTuple

from datamodules.shards.schema import Turn
from datamodules.validate.shard_check import Problem


class ShownFrame(NamedTuple):
    """A frame as a small picture."""

    url: str  # data: url
    time_ms: int
    scene: int  # number of the scene; 0 where no cuts are known


class ShownScene(NamedTuple):
    """A segment of a video."""

    start_ms: int
    end_ms: int  # time of its last frame
    num_frames: int


class ShownMedium(NamedTuple):
    """A video, picture or file of cached features."""

    name: str  # its member's ending, such as ``mp4`` or ``0.jpg``
    num_bytes: int
    span: tuple[int | None, int | None] = (None, None)  # start and end in ms of the part that is used
    num_frames: int = 0  # that a model reads; tiles of a picture count
    frames: tuple[ShownFrame, ...] = ()  # those that are shown, perhaps fewer
    scenes: tuple[ShownScene, ...] = ()  # empty where no cuts are known
    similarity: tuple[float, ...] = ()  # cosine similarity of neighbouring frames, [T - 1]
    problem: Problem | None = None


class ShownConversation(NamedTuple):
    """One dialogue."""

    id: str
    category: str
    options: tuple[str, ...]
    turns: tuple[Turn, ...]
    media: tuple[int, ...]  # numbers of the media at the video marks
    num_tokens: int | None = None  # None where no tokenizer is given, or it cannot be encoded
    num_unknown: int = 0  # tokens for words that the tokenizer does not know
    problem: Problem | None = None


class ShownSample(NamedTuple):
    """One sample."""

    key: str
    shard: str
    modality: str
    source: str
    meta: tuple[tuple[str, str], ...] = ()
    media: tuple[ShownMedium, ...] = ()
    conversations: tuple[ShownConversation, ...] = ()
    num_media: int = 0  # also those that are not shown
    num_conversations: int = 0
    problem: Problem | None = None  # of the sample itself
    raw_text: str = ""  # beginning of its JSON, where that cannot be used

    @property
    def problems(self) -> list[Problem]:
        """All that is wrong."""
        of_media = [medium.problem for medium in self.media]
        of_conversations = [conversation.problem for conversation in self.conversations]
        return [problem for problem in (self.problem, *of_media, *of_conversations) if problem is not None]
