"""Loads the trained weights of one part from a file, strictly."""

from pathlib import Path

from torch import Tensor, nn

from components.checkpoints.weight_files import WeightFiles

_MOST_SHOWN = 6


def load_part_weights(
    part: nn.Module, path: Path, key: str, advice: str = "Set its sizes as they were trained"
) -> None:
    """Load weights that are stored under the part's own names.

    Args:
        part: The part, such as a projector.
        path: Safetensors file, or another that ``WeightFiles`` opens.
        key: Config key of the part's weights, for messages, such as ``projector.weights``.
        advice: What to do about a file that does not fit.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds other tensors than the part has; nothing is loaded then.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with these weights; correct {key}")
    stored, own = dict(WeightFiles(path)), part.state_dict()
    differing = [name for name in sorted(stored.keys() & own.keys()) if stored[name].shape != own[name].shape]
    problems = {
        "missing": sorted(own.keys() - stored.keys()),
        "unknown": sorted(stored.keys() - own.keys()),
        "of another shape": [f"{name} {_shape(stored[name])} instead of {_shape(own[name])}" for name in differing],
    }
    found = "; ".join(f"{problem}: {_shown(names)}" for problem, names in problems.items() if names)
    if found:
        raise ValueError(f"{path} does not fit this {type(part).__name__}. {found}. {advice}")
    part.load_state_dict(stored)


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _shown(names: list[str]) -> str:
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
