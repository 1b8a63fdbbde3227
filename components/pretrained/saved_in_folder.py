"""Gives a model ``from_pretrained`` and ``save_pretrained``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch

from components.language.load_options import LoadOptions
from components.pretrained.folder_reading import ReadingOptions, read_folder
from components.pretrained.folder_writing import FrozenWeights, WritingOptions, write_folder
from components.pretrained.frame_settings import TrainingFacts
from components.pretrained.model_card import CardFacts
from components.pretrained.model_folder import DtypeName
from components.recorded_arguments import RecordsArguments


class SavedInFolder(RecordsArguments):
    """A model that can be written to a folder and opened from it.

    Attributes:
        training_facts: The frames that the model was trained on, and what trained it.
    """

    training_facts: TrainingFacts = TrainingFacts()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        dtype: DtypeName | None = None,
        device: str | torch.device | None = None,
        device_map: str | Mapping[str, Any] | None = None,
        load_in_8bit: bool = False,
        load_in_4bit: bool = False,
        sources: Mapping[str, str] | None = None,
        packages: Sequence[str] = (),
    ) -> Self:
        """Open a model. Nothing of a trainer is needed, and the working directory does not matter.

        Args:
            path: Folder that ``save_pretrained`` or ``python -m lightning_modules.export`` wrote, or its name on the
                model hub.
            revision: Commit, branch or tag on the hub.
            dtype: Dtype of all weights; by default as they were written.
            device: Device of the model; by default the CPU, or that of the language model with ``device_map``.
            device_map: Devices of the language model's layers, such as ``auto``, as transformers reads it.
            load_in_8bit: Quantise the language model to 8 bits a weight.
            load_in_4bit: Quantise the language model to 4 bits a weight.
            sources: Other paths for frozen weights that the folder refers to, such as ``{"encoder": PATH}``.
            packages: Packages of your own whose classes the folder may name. Importing them runs their code.

        Returns:
            The model in evaluation mode.

        Raises:
            FileNotFoundError: There is no such folder, or something that it refers to is missing.
            ValueError: It is no folder of a model, is damaged, or names classes of other packages; or both numbers of
                bits are asked for.
            ImportError: ``device_map``, 8 or 4 bits need a package that is not installed.
        """
        if load_in_8bit and load_in_4bit:
            raise ValueError("load_in_8bit and load_in_4bit are both set; choose one")
        bits: Literal[8, 4] | None = 8 if load_in_8bit else 4 if load_in_4bit else None
        options = ReadingOptions(
            revision, dtype, device, LoadOptions(device_map, bits), sources or {}, packages=tuple(packages)
        )
        model: Any
        model, facts = read_folder(cls, path, options)  # type: ignore[type-var]  # used by modules only
        model.training_facts = facts
        opened: Self = model
        return opened

    def save_pretrained(
        self,
        path: str | Path,
        frozen: FrozenWeights = "copy",
        *,
        dtype: DtypeName | None = None,
        merge_adapters: bool = False,
        card: CardFacts | None = None,
    ) -> None:
        """Write the model to a new folder, with config, tokenizer, chat template, frame settings and a model card.

        Args:
            path: The folder.
            frozen: ``copy`` stores frozen weights too, so the folder can be moved anywhere. ``reference`` stores where
                they are: hub name and revision, or absolute path.
            dtype: Dtype of the weights; by default as they are.
            merge_adapters: Merge LoRA adapters into the language model, of this model in memory too.
            card: Title, licence and results for the model card.

        Raises:
            FileExistsError: The folder exists.
            TypeError: A part has an argument that cannot be written, such as a function.
            ValueError: The language model was opened in 8 or 4 bits, or its adapters cannot be merged.
        """
        options = WritingOptions(frozen, dtype, merge_adapters, card=card or CardFacts())
        write_folder(self, Path(path), self.training_facts, options)
