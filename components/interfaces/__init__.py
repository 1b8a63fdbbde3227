"""The records that flow through the system and the contracts of its swappable parts. Read this page first.

    frames [F] -> FrameEncoder -> FrameFeatures     a class vector and N patch vectors of every frame
               -> Projector, PatchPooling           another width, fewer patches; both may be left out
               -> FrameScorer, FrameResampling      which frames are cut into segments, perhaps by the question; all,
                                                    once, if they are left out
               -> Segmenter                         which frames form a segment
               -> FrameSelection -> Segments        which of them a reader reads, and which it reads as one group
               -> SegmentReducer -> SegmentInput    fewer tokens of a segment; may be left out
               -> VisualReader (SegmentInput, state) -> state, once a segment: the recurrence
               -> VisualReader.read -> VisualTokens a named stream: what the language model sees of one reader
               -> visual prompt -> VisualTokens     the streams and the words between them, joined
               -> PictureLayout                     what is shown of pictures in tiles instead; may be left out
               -> LanguageModel -> AnswerLoss       after the segments that LossSchedule names

``components/model.py`` is this picture as code. Everything below is imported from here:
``from components.interfaces import VisualReader``.

- ``records.py``: the records.
- ``language_contract.py``: the language model, and the state from which it answers.
- ``part_contracts.py``: the parts that are modules: encoder, frame scorer, projector, pooling, picture
  layout, reducer, reader.
- ``policy_contracts.py``: the parts that only decide: frame resampling, segmenter, frame selection,
  schedules of losses and streams.
- ``readout_contract.py``: the states of the recurrent bridge and of the token store, and the parts that read them.

Notation, used in every shape comment of the code base:

    V  videos of a batch (an image is a video of one frame)
    F  frames of all videos, packed back to back: the encoder never sees padding
    T  frames of one video
    N  patches of a frame            D  vision width
    S  segments of the longest video L  frame groups of the longest segment
    G  frames of the largest group: 1 unless the frame selection averages
    P  tokens of a segment: L * N, or fewer after a reducer
    M  memory tokens; of conversations: most media (videos or images) of a conversation
    Q  visual tokens that reach the language model
    C  conversations                 K  text tokens of the longest conversation
    E  language model width          R  readings: segments after which the loss is taken

A *frame group* is what a reader reads as one frame: one frame, or the mean of several neighbours.

*Host*: counts and indices (frames of every video, segments, text ids) are tensors on the CPU also where frames and
weights are on another device. So their values are known without waiting for that device.

Masks are bool, True = real. Times are integer milliseconds, because precision plugins cast every float of a batch and
bfloat16 cannot tell 3601.5 s from 3603.0 s. Records are ``NamedTuple``s, because Lightning's device move and
DeepSpeed's ZeRO-3 hooks fail on dataclasses.
"""

from components.interfaces.language_contract import (
    AnswerOption,
    Answers,
    DecodingSettings,
    LanguageModel,
    LanguageState,
    NewTokens,
    Streamer,
)
from components.interfaces.part_contracts import (
    FrameEncoder,
    FrameScorer,
    PatchPooling,
    PictureLayout,
    Projector,
    SegmentReducer,
    StateT,
    VisualReader,
)
from components.interfaces.policy_contracts import (
    FrameResampling,
    FrameSelection,
    LossSchedule,
    Segmenter,
    SegmenterStream,
    StreamSchedule,
)
from components.interfaces.readout_contract import MemoryState, Readout, StoredTokens, TokenReadout
from components.interfaces.records import (
    IGNORED_LABEL,
    TEXT_ONLY,
    VIDEO_PLACEHOLDER,
    AnswerLoss,
    BridgeDiagnostics,
    FrameFeatures,
    FrameGroups,
    KeptTokens,
    Questions,
    SegmentInput,
    Segments,
    TextInputs,
    TokenPlaces,
    VideoTextBatch,
    VisualTokens,
    WholeVideo,
)

__all__ = [
    "IGNORED_LABEL",
    "TEXT_ONLY",
    "VIDEO_PLACEHOLDER",
    "AnswerLoss",
    "AnswerOption",
    "Answers",
    "BridgeDiagnostics",
    "DecodingSettings",
    "FrameEncoder",
    "FrameFeatures",
    "FrameGroups",
    "FrameResampling",
    "FrameScorer",
    "FrameSelection",
    "KeptTokens",
    "LanguageModel",
    "LanguageState",
    "LossSchedule",
    "MemoryState",
    "NewTokens",
    "PatchPooling",
    "PictureLayout",
    "Projector",
    "Questions",
    "Readout",
    "SegmentInput",
    "SegmentReducer",
    "Segmenter",
    "SegmenterStream",
    "Segments",
    "StateT",
    "StoredTokens",
    "StreamSchedule",
    "Streamer",
    "TextInputs",
    "TokenPlaces",
    "TokenReadout",
    "VideoTextBatch",
    "VisualReader",
    "VisualTokens",
    "WholeVideo",
]
