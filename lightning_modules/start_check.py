"""Checks before the first step that parts, tokenizer and data fit each other, and reports all problems at once.

``check_settings`` runs when the parts are built. It needs no weights of the language model, so it works under every
strategy. ``StartCheck`` then lets the language model read two tokens on the device where it will run. Neither changes
the state of a random number generator, so a resumed run continues as if there were no check.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch.distributed.fsdp import FSDPModule

from components.checkpoints.tokenizer_fingerprint import tokenizer_fingerprint
from components.interfaces import (
    IGNORED_LABEL,
    TEXT_ONLY,
    VIDEO_PLACEHOLDER,
    FrameEncoder,
    FrameFeatures,
    Questions,
    StreamSchedule,
    TextInputs,
)
from components.language.causal import HuggingFaceCausalLM
from components.language.text_limits import CONTEXT_ADVICE, TextLimitError
from components.model import VideoLanguageModel
from components.pictures.tile_check import check_tiles
from components.problems import Problems
from components.turns import rows_of_turns
from lightning_modules.optimization.parameter_groups import refuse_float16

_SCHEDULED_BATCHES = 10_000


class _Limits(NamedTuple):
    """What a run needs of the language model's context."""

    visual_tokens: int  # of the shortest medium, with the words of the visual prompt
    max_new_tokens: int
    long_texts_are_skipped: bool


def check_settings(
    model: VideoLanguageModel,
    stage: str | None,
    datamodule: Any,
    max_new_tokens: int,
    *,
    stream_schedule: StreamSchedule | None = None,
    long_texts_are_skipped: bool = False,
) -> None:
    """Check everything that needs no weights of the language model.

    Args:
        model: The parts, just built.
        stage: What begins: fit, validate, test or predict; None = unknown, and the data are not checked.
        datamodule: The data; None, or one without ``start_sample``, is not checked.
        max_new_tokens: Longest answer that is generated.
        stream_schedule: Which streams training leaves out.
        long_texts_are_skipped: Whether conversations that are too long for the model are skipped later (no problem).

    Raises:
        ValueError: Parts, tokenizer and data do not fit each other.
    """
    problems = Problems()
    if stage == "fit":
        for name, part in model.named_children():
            with problems.collected():
                refuse_float16(name, part)
        if stream_schedule is not None:
            with problems.collected():
                _check_stream_schedule(stream_schedule, list(model.readers))
    visual_tokens = 0
    with problems.collected(), isolate_rng():
        visual_tokens = _fewest_visual_tokens(model)
    if hasattr(datamodule, "start_sample") and stage is not None:
        limits = _Limits(visual_tokens, max_new_tokens, long_texts_are_skipped)
        with problems.collected():
            _check_data(model, datamodule, stage, limits, problems)
    problems.refuse("this run cannot start")


def _check_data(model: VideoLanguageModel, datamodule: Any, stage: str, limits: _Limits, problems: Problems) -> None:
    sample = datamodule.start_sample(stage)
    problems.found += sample.problems
    with problems.collected():
        _check_tiles(model, datamodule)
    for media in {(media.dtype, media.shape): media for media in sample.media}.values():
        with problems.collected():
            _check_frames(model.encoder, media)
    if isinstance(model.language_model, HuggingFaceCausalLM):
        with problems.collected():
            _check_tokenizer(model.language_model, datamodule)
        with problems.collected():
            _check_chat(model.language_model, datamodule)
        with problems.collected():
            for text in [] if limits.long_texts_are_skipped else sample.texts:
                _check_text(model.language_model, text, limits)


def _fewest_visual_tokens(model: VideoLanguageModel) -> int:
    """Visual tokens of the shortest medium: a video of one frame, or a picture that is one of several.

    Readers and picture layout are not sharded yet while parts are built.
    """
    weights = next(iter(model.readers.values())).parameters()
    patches = next(weights, torch.zeros(1)).new_zeros(1, model.encoder.num_patches, model.encoder.dim)
    saliency = patches[..., 0].float() if model.encoder.gives_saliency else None
    no_ids = torch.zeros(1, 1, dtype=torch.int64)
    segments = model.group_frames(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64), 1)
    with torch.no_grad():
        features = model.reduce_patches(FrameFeatures(patches[:, 0], patches, saliency))
        frame_ms = torch.zeros(1, dtype=torch.int64, device=patches.device)
        [states] = model.run_segments(features, frame_ms, segments)
        embeddings = patches.new_zeros(1, 1, model.language_model.dim)
        questions = Questions(embeddings, no_ids == 0, no_ids)
        streams = (
            reader.read(states[name].reader, questions if reader.reads_questions else None)
            for name, reader in model.readers.items()
        )
        words = model.visual_prompt.count_words(model.language_model)
        of_video = words + sum(int(stream.mask.sum()) for stream in streams)
        if model.picture_layout is None:
            return of_video
        picture = patches.new_zeros(1, patches.shape[1], model.language_model.dim)
        return min(of_video, len(model.picture_layout(picture, (1, 1), picture[0, 0])))


def _check_frames(encoder: FrameEncoder, media: Any) -> None:
    """Report the encoder's error about frames whose shape or type it does not read."""
    expected = encoder.dummy_frames("cpu")
    frames = torch.zeros(1, *media.shape, dtype=media.dtype)
    if frames.shape == expected.shape and frames.is_floating_point() == expected.is_floating_point():
        return
    if frames.numel() == 0 and not expected.is_floating_point():
        raise ValueError(f"data.pixels.size is not set: set it to {expected.shape[-1]}, which the encoder reads")
    try:
        encoder(frames, torch.ones(1, dtype=torch.int64))
    except ValueError as error:
        raise ValueError(f"{media.where}: {error}") from error


def _check_tiles(model: VideoLanguageModel, datamodule: Any) -> None:
    pixels = getattr(datamodule, "pixels", None)
    if pixels is not None:
        check_tiles(model.picture_layout, pixels.size, None if pixels.tiles is None else pixels.tiles.per_side)


def _check_tokenizer(language_model: HuggingFaceCausalLM, datamodule: Any) -> None:
    own, others = tokenizer_fingerprint(language_model.tokenizer), tokenizer_fingerprint(datamodule.tokenizer)
    differing = [name.replace("_", " ") for name in own._fields if getattr(own, name) != getattr(others, name)]
    if differing:
        raise ValueError(
            f"data.tokenizer {datamodule.tokenizer_path!r} is not the tokenizer of the language model "
            f"{language_model.limits.path!r} (different: {', '.join(differing)}), so the model would read other words "
            "than the data say: leave data.tokenizer out (or set it to null), and it is the language model's"
        )


def _check_chat(language_model: HuggingFaceCausalLM, datamodule: Any) -> None:
    own, others = language_model.chat.settings, datamodule.loading.chat_settings
    if own != others:
        raise ValueError(
            f"data.loading.chat is {others}, but model.language_model.init_args.chat is {own}, so questions would be "
            "asked otherwise than the data are written: leave data.loading.chat out (or set it to null), and it is the "
            "language model's"
        )


def _check_text(language_model: HuggingFaceCausalLM, text: Any, limits: _Limits) -> None:
    """Check one conversation against the language model's vocabulary and context."""
    try:
        language_model.limits.check_ids(text.input_ids[None])
    except TextLimitError as error:
        raise ValueError(f"{text.where}: {error.reason}") from error
    path, context = language_model.limits.path, language_model.limits.context_length
    ids, labels = text.input_ids[None], text.labels[None]
    rows = rows_of_turns(TextInputs(ids, torch.ones_like(ids).bool(), labels, torch.full((1, 1), TEXT_ONLY)))
    # Every turn is answered in validation; the last one has the longest prompt.
    is_prompt = (rows.text.labels[-1] != IGNORED_LABEL).cumsum(0).eq(0)
    is_medium = text.input_ids == VIDEO_PLACEHOLDER
    of_prompt = limits.visual_tokens * int((is_medium & is_prompt).sum())
    prompt = int((is_prompt & ~is_medium).sum()) + of_prompt
    of_all = limits.visual_tokens * int(is_medium.sum())
    complete = int((~is_medium).sum()) + of_all
    answered = prompt + limits.max_new_tokens if text.is_answered else 0
    needed, visual = (answered, of_prompt) if answered >= complete else (complete, of_all)
    if context is not None and needed > context:
        with_answer = f" (a prompt of {prompt}, {limits.max_new_tokens} for the answer)" if answered >= complete else ""
        raise ValueError(
            f"{text.where}: it needs {needed} tokens{with_answer}, {visual} or more visual ones among them, but "
            f"max_position_embeddings of {path!r} is {context}: {CONTEXT_ADVICE}"
        )


def _check_stream_schedule(schedule: StreamSchedule, streams: Collection[str]) -> None:
    """Refuse a schedule that names other streams, or that leaves out all streams in one of its first batches."""
    for batch in range(_SCHEDULED_BATCHES):
        left_out = schedule.left_out(batch)
        if not left_out <= set(streams):
            raise ValueError(
                f"model.stream_schedule leaves out {', '.join(sorted(left_out - set(streams)))}, which the model has "
                f"not: its visual streams are {', '.join(streams)}"
            )
        if left_out == set(streams):
            raise ValueError(
                f"model.stream_schedule leaves out all visual streams ({', '.join(streams)}) in training batch "
                f"{batch}, so the language model would see nothing: let it never leave out one of them"
            )


class StartCheck(Callback):
    """Lets the language model read two tokens and answer with two, on the device and in the precision of the run."""

    def __init__(self) -> None:
        self._is_done = False

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check before training."""
        self._check(trainer, pl_module.built)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check before evaluating."""
        self._check(trainer, pl_module.built)

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check before evaluating."""
        self._check(trainer, pl_module.built)

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check before answering."""
        self._check(trainer, pl_module.built)

    def _check(self, trainer: Trainer, model: VideoLanguageModel) -> None:
        if self._is_done or not isinstance(model.language_model, HuggingFaceCausalLM):
            return
        self._is_done = True
        problems = Problems()
        with isolate_rng():
            with trainer.precision_plugin.forward_context():
                problems.found += model.language_model.probe()
            if trainer.state.fn == TrainerFn.FITTING:
                with trainer.precision_plugin.forward_context():
                    unused = model.language_model.unused_parameters()
                problems.found += _unused(unused, trainer.world_size)
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.reshard()  # checkpoints are restored into shards
        problems.refuse("this run cannot start")


def _unused(names: list[str], world_size: int) -> list[str]:
    """A problem if several ranks wait for the gradients of all parameters; else a warning."""
    if not names:
        return []
    text = (
        f"{len(names)} trainable tensors of the language model are in no answer, so they would never learn: "
        f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}; freeze it, or train adapters with lora"
    )
    if world_size > 1:
        return [text]
    rank_zero_warn(text)
    return []
