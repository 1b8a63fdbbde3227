"""The records that flow through the system and the contracts of its swappable parts. Read this page first.

    frames [F] -> FrameEncoder -> FrameFeatures     a class vector and N patch vectors of every frame
               -> Segmenter                         which frames form a segment
               -> FrameSelection -> Segments        which of them the bridge reads, and which it reads as one group
               -> VisualReader (SegmentInput, state) -> state, once a segment: the recurrence
               -> VisualReader.read -> VisualTokens what the language model sees
               -> LanguageModel -> AnswerLoss       after the segments that LossSchedule names

``components/model.py`` is this picture as code. Everything below is imported from here:
``from components.interfaces import VisualReader``.

- ``records.py``: the records.
- ``part_contracts.py``: the parts that are modules: encoder, patch pooling, bridge, language model.
- ``policy_contracts.py``: the parts that only decide: segmenter, frame selection, loss schedule.
- ``language_state.py``: the state of the language model, and how it answers from there.
- ``readout_contract.py``: the state of the recurrent bridge and the part that reads it.

Notation, used in every shape comment of the code base:

    V  videos of a batch (an image is a video of one frame)
    F  frames of all videos, packed back to back: the encoder never sees padding
    T  frames of one video
    N  patches of a frame            D  vision width
    S  segments of the longest video L  frame groups of the longest segment
    G  frames of the largest group: 1 unless the frame selection averages
    P  patch tokens of a segment: L * N
    M  memory tokens                 Q  visual tokens that reach the language model
    C  conversations                 K  text tokens of the longest conversation
    E  language model width          R  readings: segments after which the loss is taken

A *frame group* is what the bridge reads as one frame: one frame, or the mean of several neighbours.

Masks are bool, True = real. Times are integer milliseconds, because precision plugins cast every float of a batch and
bfloat16 cannot tell 3601.5 s from 3603.0 s. Records are ``NamedTuple``s, because Lightning's device move and
DeepSpeed's ZeRO-3 hooks fail on dataclasses.
"""

from components.interfaces.language_state import Answers, DecodingSettings, LanguageState, NewTokens, Streamer
from components.interfaces.part_contracts import FrameEncoder, LanguageModel, PatchPooling, StateT, VisualReader
from components.interfaces.policy_contracts import FrameSelection, LossSchedule, Segmenter, SegmenterStream
from components.interfaces.readout_contract import MemoryState, Readout
from components.interfaces.records import (
    IGNORED_LABEL,
    TEXT_ONLY,
    VIDEO_PLACEHOLDER,
    AnswerLoss,
    BridgeDiagnostics,
    FrameFeatures,
    FrameGroups,
    Questions,
    SegmentInput,
    Segments,
    TextInputs,
    VideoTextBatch,
    VisualTokens,
)

__all__ = [
    "IGNORED_LABEL",
    "TEXT_ONLY",
    "VIDEO_PLACEHOLDER",
    "AnswerLoss",
    "Answers",
    "BridgeDiagnostics",
    "DecodingSettings",
    "FrameEncoder",
    "FrameFeatures",
    "FrameGroups",
    "FrameSelection",
    "LanguageModel",
    "LanguageState",
    "LossSchedule",
    "MemoryState",
    "NewTokens",
    "PatchPooling",
    "Questions",
    "Readout",
    "SegmentInput",
    "Segmenter",
    "SegmenterStream",
    "Segments",
    "StateT",
    "Streamer",
    "TextInputs",
    "VideoTextBatch",
    "VisualReader",
    "VisualTokens",
]
