"""What is known of pictures in tiles before the first step is said before it."""

from functools import partial
from pathlib import Path

import pytest

from components.interfaces import VIDEO_PLACEHOLDER
from components.newline import Newline
from components.pictures.tile_layout import TileLayout
from components.projectors.mlp import MlpProjector
from lightning_modules.start_check import check_settings
from tests.components.tiny_language import make_model_folder
from tests.fixtures_models import IMAGE_SIZE, PartFolders
from tests.fixtures_streams import make_module_of_streams
from tests.lightning_modules.test_start_check import OneText, message_of, run_settings


def test_tiles_that_the_model_does_not_show_are_refused(tmp_path: Path, folders: PartFolders) -> None:
    config = run_settings(tmp_path, folders)
    message = message_of(["fit", "-c", str(config), "--data.pixels.tiles.per_side=6"])
    assert (
        "data.pixels.tiles cuts pictures into tiles, but model.picture_layout, which shows them, is not set" in message
    )


def test_a_picture_of_several_counts_its_patches_where_they_are_fewer_than_what_readers_give(
    tmp_path: Path, folders: PartFolders
) -> None:
    data = OneText(folders, num_media=3)
    num_patches = (IMAGE_SIZE // 14) ** 2
    needed = int((data.encoded.input_ids != VIDEO_PLACEHOLDER).sum()) + 3 * (num_patches + 1)
    layout = partial(TileLayout, tile_size=IMAGE_SIZE)
    for context in (needed, needed - 1):
        narrow = make_model_folder(tmp_path / f"{context}", max_position_embeddings=context)
        parts = folders._replace(language_model=str(narrow))
        module = make_module_of_streams(parts, projector=MlpProjector, newline=Newline, picture_layout=layout)
        module.configure_model()
        if context == needed:
            check_settings(module.built, "fit", OneText(parts, 3), 3)
            continue
        with pytest.raises(ValueError, match=rf"needs {needed} tokens"):
            check_settings(module.built, "fit", OneText(parts, 3), 3)
