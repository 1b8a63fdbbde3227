"""Lets torchvision import beside a CPU build of torch. Every package of this project imports it first.

Source: the registry's torchvision wheel is compiled against CUDA torch. Beside a CPU torch its C++ library does not
load, and its Python code then fails on the missing operators ``nms`` and ``qnms``; Lightning imports torchvision
(through torchmetrics), so it would fail too. The hook below waits for the first import of torchvision, tries its
library and, only where that cannot be loaded, declares the two operators' schemas. Image and video transforms need no
more. Calling ``nms`` itself still fails, with torch's own message.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[object] = []  # a torch.library.Library takes its operators with it when it is collected


class _TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Runs once, at the first import of torchvision, then takes itself off the import path."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Prepare torch, then leave the import to the ordinary finders."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                _declare_missing_operators(Path(spec.origin).parent)
        return None


def _declare_missing_operators(package: Path) -> None:
    import torch

    for library in package.glob("_C*.so"):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return
    declared = torch.library.Library("torchvision", "DEF")
    declared.define(f"nms{_SCHEMA}")
    declared.define(f"qnms{_SCHEMA}")
    _kept.append(declared)


if "torchvision" not in sys.modules:
    sys.meta_path.insert(0, _TorchvisionFinder())
