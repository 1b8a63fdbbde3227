"""Builds a model from the factories of its parts, which a config names; each width is passed on once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.interfaces import (
    FrameEncoder,
    FrameResampling,
    FrameScorer,
    FrameSelection,
    LanguageModel,
    LossSchedule,
    PatchPooling,
    PictureLayout,
    Projector,
    Segmenter,
    SegmentReducer,
    VisualReader,
)
from components.model import VideoLanguageModel
from components.newline import Newline
from components.streams import MEMORY_STREAM, StreamReader

MakeReader = Callable[[int, int], VisualReader]  # type: ignore[type-arg]  # every reader has a state type of its own
MakeReducer = Callable[[int], SegmentReducer]  # type: ignore[type-arg]


@dataclass(frozen=True)
class ReaderSettings:
    """One of several readers of a model.

    Args:
        reader: Builds the reader from the width of the tokens that it reads and language model width E.
        frame_selection: Which frames of a segment it reads; all by default.
        reducer: Builds from the width of the tokens what leaves fewer of them before it reads; none by default.
    """

    reader: MakeReader
    frame_selection: FrameSelection | None = None
    reducer: MakeReducer | None = None


def build_model(
    *,
    encoder: Callable[[], FrameEncoder],
    language_model: Callable[[], LanguageModel],
    segmenter: Segmenter,
    projector: Callable[[int, int], Projector] | None = None,
    patch_pooling: Callable[[int], PatchPooling] | None = None,
    newline: Callable[[int], Newline] | None = None,
    picture_layout: Callable[[int], PictureLayout] | None = None,
    frame_resampling: FrameResampling | None = None,
    frame_scorer: Callable[[], FrameScorer] | None = None,
    bridge: MakeReader | None = None,
    frame_selection: FrameSelection | None = None,
    reducer: MakeReducer | None = None,
    readers: Mapping[str, ReaderSettings] | None = None,
    visual_prompt: str | None = None,
    loss_schedule: LossSchedule | None = None,
    **agreements: Any,
) -> VideoLanguageModel:
    """Build the parts and join them.

    Args:
        encoder: Builds the frame encoder.
        language_model: Builds the language model.
        segmenter: Cuts videos into segments.
        projector: Builds the projector from vision width D and language model width E.
        patch_pooling: Builds the pooling from the width of a patch.
        newline: Builds the learned newline vector from language model width E.
        picture_layout: Builds from E what arranges the tiles of a picture.
        frame_resampling: Which frames of a video are cut into segments.
        frame_scorer: Builds what tells how well each frame fits the question.
        bridge: Builds the only reader; see ``ReaderSettings.reader``.
        frame_selection: Which frames of a segment a reader reads.
        reducer: Builds the bridge's reducer; see ``ReaderSettings.reducer``.
        readers: Several readers by name, instead of the three before.
        visual_prompt: See ``VideoLanguageModel``.
        loss_schedule: After which segments the loss is taken.
        **agreements: ``agree_on_maximum`` and ``mean_over_ranks`` of ``VideoLanguageModel``.

    Raises:
        ValueError: Both forms of readers are given or none, a reducer reads saliency that the encoder does not give,
            patches that are not projected to E would be shown as a picture; or see ``VideoLanguageModel``.
    """
    built_encoder, built_language = encoder(), language_model()
    built_projector = None if projector is None else projector(built_encoder.dim, built_language.dim)
    dim = built_encoder.dim if built_projector is None else built_projector.out_dim
    if picture_layout is not None and dim != built_language.dim:
        raise ValueError(
            f"picture_layout shows patches as they are, but they have width {dim}, and the language model "
            f"{built_language.dim}: set model.projector, such as components.projectors.mlp.MlpProjector"
        )
    built_pooling = None if patch_pooling is None else patch_pooling(dim)
    dim = dim if built_pooling is None else built_pooling.out_dim

    _check_readers(bridge, frame_selection, reducer, readers)
    single = None if bridge is None else {MEMORY_STREAM: ReaderSettings(bridge, frame_selection, reducer)}
    named = single or readers or {}
    built_readers = {name: _build_reader(each, dim, built_encoder, built_language) for name, each in named.items()}
    return VideoLanguageModel(
        encoder=built_encoder,
        projector=built_projector,
        patch_pooling=built_pooling,
        newline=None if newline is None else newline(built_language.dim),
        picture_layout=None if picture_layout is None else picture_layout(built_language.dim),
        frame_resampling=frame_resampling,
        frame_scorer=None if frame_scorer is None else frame_scorer(),
        segmenter=segmenter,
        readers=built_readers if bridge is None else built_readers[MEMORY_STREAM],
        visual_prompt=visual_prompt,
        language_model=built_language,
        loss_schedule=loss_schedule,
        **agreements,
    )


def _check_readers(
    bridge: MakeReader | None,
    frame_selection: FrameSelection | None,
    reducer: MakeReducer | None,
    readers: Mapping[str, ReaderSettings] | None,
) -> None:
    """Check that readers are given in one of the two forms."""
    if (bridge is None) == (readers is None):
        raise ValueError(
            "give either bridge (one reader) or readers (several by name), exactly one of the two; a file that sets "
            "model.readers over one that sets model.bridge also says `bridge: null`"
        )
    if bridge is None and (frame_selection is not None or reducer is not None):
        raise ValueError(
            "model.frame_selection and model.reducer belong to model.bridge; several readers have their own: "
            "model.readers.NAME.frame_selection, model.readers.NAME.reducer"
        )


def _build_reader(
    settings: ReaderSettings, dim: int, encoder: FrameEncoder, language_model: LanguageModel
) -> StreamReader:
    """Build a reader of tokens of width ``dim``, and its reducer."""
    reducer = None if settings.reducer is None else settings.reducer(dim)
    if reducer is not None and reducer.reads_saliency and not encoder.gives_saliency:
        raise ValueError(
            f"{type(reducer).__name__} reads the saliency of patches, which this encoder does not give: set its "
            "saliency_layer (features that were cached without it are cached again)"
        )
    width = dim if reducer is None else reducer.out_dim
    return StreamReader(settings.reader(width, language_model.dim), settings.frame_selection, reducer)
