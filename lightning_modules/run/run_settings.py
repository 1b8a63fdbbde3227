"""Fills in settings of a run that follow from others, and refuses those of the trainer that harm the parts."""

import copy
import pkgutil
from typing import Any


def complete_settings(config: Any) -> None:
    """State tokenizer, chat settings and frame size of ``data`` where the config leaves them out, in place.

    Tokenizer and chat settings are the language model's, the size of frames the encoder's, so another language model
    or encoder is chosen by its path alone. What the config states stays; ``lightning_modules.start_check`` compares it.

    Args:
        config: Settings of a run with ``model`` and ``data``, as jsonargparse has parsed them.
    """
    language_model = _arguments(config.model.language_model)
    if config.data.tokenizer is None:
        config.data.tokenizer = language_model.get("path")
    if config.data.loading.chat is None:
        config.data.loading.chat = copy.deepcopy(language_model.get("chat"))
    if config.data.pixels.size is None:
        config.data.pixels.size = _frame_side(config.model.encoder)


def check_trainer_settings(trainer: Any) -> None:
    """Refuse what cannot work, before anything is built.

    Args:
        trainer: The ``trainer`` section of a run's settings.

    Raises:
        ValueError: The precision casts the parts themselves.
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
    """Side of the frames that an encoder reads; None where its class or its files do not tell."""
    class_path = getattr(encoder, "class_path", None)
    tell = getattr(pkgutil.resolve_name(class_path), "frame_side", None) if class_path else None
    if tell is None:
        return None
    try:
        side: int = tell(**_arguments(encoder))
    except (ValueError, OSError):
        return None  # the encoder is built next, and says this with whatever else is wrong
    return side
