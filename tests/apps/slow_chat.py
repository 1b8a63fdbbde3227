"""A program for ``test_chat_terminal``: the chat with a tiny model whose every token takes a while."""

import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor

import apps.chat.__main__ as chat
from command_errors import run_and_exit
from components.language.answer_tokens import TokenChooser
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model

SECONDS_OF_A_TOKEN = 0.25
LONGEST = 30
_choose = TokenChooser.choose


def choose_slowly(self: TokenChooser, logits: Tensor) -> Tensor:
    """A token, after a while."""
    time.sleep(SECONDS_OF_A_TOKEN)
    return _choose(self, logits)


def open_tiny(_options: Any) -> Any:
    """A tiny model, from the folders of its parts."""
    parts = Path(sys.argv[1])
    model = make_model(PartFolders(str(parts / "encoder"), str(parts / "language_model")))
    model.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, "crop", 5), max_new_tokens=LONGEST)
    return model


if __name__ == "__main__":
    TokenChooser.choose = choose_slowly  # type: ignore[method-assign]
    chat.open_given = open_tiny  # type: ignore[attr-defined]
    run_and_exit(lambda: chat.main(["tiny", *sys.argv[2:]]))
