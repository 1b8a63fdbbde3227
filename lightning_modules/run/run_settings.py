"""Fills in settings that follow from others, and refuses harmful settings of the trainer."""

import copy
import pkgutil
from typing import Any


def complete_settings(config: Any) -> None:
    """Fill in tokenizer, chat settings and frame size of ``data`` if the config does not set them.

    Tokenizer and chat settings are those of the language model, and the frame size is the encoder's. So changing the
    path of the language model or encoder is enough. Values in the config stay; ``lightning_modules.start_check``
    checks that they fit.

    Args:
        config: Settings of a run with ``model`` and ``data``, as parsed by jsonargparse; changed in place.
    """
    language_model = _arguments(config.model.language_model)
    if config.data.tokenizer is None:
        config.data.tokenizer = language_model.get("path")
    if config.data.loading.chat is None:
        config.data.loading.chat = copy.deepcopy(language_model.get("chat"))
    if config.data.pixels.size is None:
        config.data.pixels.size = _frame_side(config.model.encoder)


def check_trainer_settings(trainer: Any) -> None:
    """Refuse settings that cannot work, before anything is built.

    Args:
        trainer: The ``trainer`` section of a run's settings.

    Raises:
        ValueError: The precision would cast the parts' weights and buffers.
    """
    precision = str(trainer.precision or "32-true")
    if precision in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision {precision} casts all that the parts hold, the angles of rotary positions too, which "
            f"are wrong by 0.7 radians after 4000 tokens then: set it to {precision.split('-')[0]}-mixed (and the "
            "dtype of parts that do not train to bfloat16, to save memory)"
        )


def _arguments(part: Any) -> dict[str, Any]:
    """Arguments that a part is built with, as its config states them."""
    given = getattr(part, "init_args", None)
    return {} if given is None else dict(vars(given))


def _frame_side(encoder: Any) -> int | None:
    """Side of the frames that an encoder reads, in pixels; None if its class or its files do not state it."""
    class_path = getattr(encoder, "class_path", None)
    frame_side = getattr(pkgutil.resolve_name(class_path), "frame_side", None) if class_path else None
    if frame_side is None:
        return None
    try:
        side: int = frame_side(**_arguments(encoder))
    except (ValueError, OSError):
        return None  # building the encoder will raise a complete error
    return side
