"""Reads what a page shows of a sample, as training reads it."""

from pathlib import Path
from typing import NamedTuple

from datamodules.errors import SampleError, ShardError
from datamodules.media.media_reader import MediaReader
from datamodules.media.sample_media import SampleMedia
from datamodules.shards.media_range import MediaRange
from datamodules.shards.member_names import FEATURE_ENDINGS, media_endings
from datamodules.shards.shard_reader import RawMedium, RawSample, ShardReader
from datamodules.shards.shard_scan import read_record
from datamodules.validate.conversation_check import ConversationCheck
from datamodules.validate.shard_check import UNKNOWN_SOURCE, Problem
from membridge.sample_page.sample_choice import evenly
from membridge.sample_page.sample_texts import TextBudget, shown_conversations
from membridge.sample_page.shown_sample import ShownFrame, ShownMedium, ShownSample, ShownScene
from membridge.sample_page.video_cuts import Cuts, VideoCuts
from membridge.sample_page.whole_frames import jpeg_url, thumbnails

MOST_MEDIA = 8
"""Media of a sample that are shown."""

_SHARD_PROBLEM = "shard"
_JSON_BYTES = 2000


class SampleReading(NamedTuple):
    """Reads samples for a page.

    Args:
        reader: The shards.
        media: How media become frames.
        max_frames: Most frames of a medium that are shown.
        conversations: How conversations are encoded; None = tokens are not counted.
        cuts: Cuts videos; None = no cuts are shown.
    """

    reader: ShardReader
    media: MediaReader
    max_frames: int
    conversations: ConversationCheck | None = None
    cuts: VideoCuts | None = None

    def read(self, number: int, problem: Problem | None = None) -> ShownSample:
        """Read one sample; what is wrong with it is a part of the result.

        Args:
            number: Number of the sample.
            problem: What is known to be wrong with it.
        """
        entry, shard = self.reader.entry(number), self.reader.shard(number).url
        shown = ShownSample(entry.key, shard, entry.modality, UNKNOWN_SOURCE, problem=problem)
        try:
            raw = self.reader.read(number)
        except (SampleError, ShardError) as error:
            return self._unusable(shown, number, error)
        texts = TextBudget()
        return shown._replace(
            source=texts.shortened(raw.record.source),
            meta=tuple((texts.shortened(name), texts.shortened(str(value))) for name, value in raw.record.meta.items()),
            media=self._media(raw, number),
            conversations=shown_conversations(raw, self.conversations),
            num_media=len(raw.media),
            num_conversations=len(raw.record.conversations),
        )

    def _unusable(self, shown: ShownSample, number: int, error: SampleError | ShardError) -> ShownSample:
        """A sample that cannot be used: its members, and the beginning of its JSON."""
        entry, shard = self.reader.entry(number), self.reader.shard(number)
        kind, text = _SHARD_PROBLEM, ""
        if isinstance(error, SampleError):
            kind, text = self._json_problem(number, error)
        reason = str(error).removeprefix(f"shard {shard.url}, key {entry.key!r}").lstrip(",: ")
        media = tuple(ShownMedium(ending, entry.members[ending][1]) for ending in media_endings(entry.members))
        return shown._replace(
            media=media[:MOST_MEDIA], num_media=len(media), problem=Problem(kind, reason), raw_text=text
        )

    def _json_problem(self, number: int, error: SampleError) -> tuple[str, str]:
        """Kind of the problem, which an index does not store, and the beginning of the JSON."""
        entry, shard = self.reader.entry(number), self.reader.shard(number)
        text = ""
        path = Path(shard.url) if shard.cached is None else shard.cached.path
        content = MediaRange(path, *entry.members.get("json", (0, 0)), shard.cached)
        try:
            with content.open_file() as file:
                file.seek(content.offset)
                text = file.read(min(content.size, _JSON_BYTES)).decode("utf-8", "replace")
                read_record(file, entry.key, entry.members)
        except SampleError as found:
            return found.kind, text
        except ShardError:
            return _SHARD_PROBLEM, text
        return error.kind, text

    def _media(self, raw: RawSample, number: int) -> tuple[ShownMedium, ...]:
        members = self.reader.entry(number).members
        shown = []
        for medium, ending in zip(raw.media[:MOST_MEDIA], media_endings(members), strict=False):
            facts = ShownMedium(ending, members[ending][1], (medium.facts.start_ms, medium.facts.end_ms))
            try:
                shown.append(self._medium(facts, medium, is_alone=len(raw.media) == 1))
            except (SampleError, ShardError) as error:
                kind = error.kind if isinstance(error, SampleError) else _SHARD_PROBLEM
                reason = str(error).removeprefix(medium.where).lstrip(",: ")
                shown.append(facts._replace(problem=Problem(kind, reason)))
        return tuple(shown)

    def _medium(self, shown: ShownMedium, medium: RawMedium, *, is_alone: bool) -> ShownMedium:
        media = self.media.read(medium, (0,), is_alone=is_alone)
        is_features = medium.ending in FEATURE_ENDINGS
        cuts = None
        if self.cuts is not None and self.cuts.reads_features == is_features and media.picture_size is None:
            cuts = self.cuts.of(media.frames)
        times: list[int] = media.frame_ms.tolist()
        scenes = () if cuts is None or len(times) < 2 else _scenes(cuts, times)
        frames = () if is_features else self._frames(media, cuts)
        similarity = () if cuts is None else cuts.similarity
        return shown._replace(num_frames=len(times), frames=frames, scenes=scenes, similarity=similarity)

    def _frames(self, media: SampleMedia, cuts: Cuts | None) -> tuple[ShownFrame, ...]:
        scene = (0,) * len(media.frames) if cuts is None else cuts.scene
        first = [index for index in range(len(scene)) if index == 0 or scene[index] != scene[index - 1]]
        first = first if len(first) <= self.max_frames // 2 else []  # every scene is seen where that is possible
        others = [index for index in range(len(scene)) if index not in set(first)]
        chosen = sorted([*first, *evenly(others, self.max_frames - len(first))])
        pictures = thumbnails(media.frames[chosen])
        return tuple(
            ShownFrame(jpeg_url(picture), int(media.frame_ms[index]), scene[index])
            for picture, index in zip(pictures, chosen, strict=True)
        )


def _scenes(cuts: Cuts, times: list[int]) -> tuple[ShownScene, ...]:
    found: list[ShownScene] = []
    for number, time_ms in zip(cuts.scene, times, strict=True):
        if number == len(found):
            found.append(ShownScene(time_ms, time_ms, 0))
        found[number] = ShownScene(found[number].start_ms, time_ms, found[number].num_frames + 1)
    return tuple(found)
