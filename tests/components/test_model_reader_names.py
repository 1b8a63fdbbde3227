"""What is refused when a model gets its readers."""

import pytest

from components.building import ReaderSettings
from components.selection.linspace_frames import LinspaceFrames
from tests.fixtures_models import (
    PartFolders,
    make_bridge,
    make_model,
    make_two_reader_model,
    make_two_readers,
)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("<memory>", "name every one of them once, such as '<memory><frames>'"),
        ("<memory><frames><memory>", "name every one of them once"),
        ("<memory><frames><audio>", "but the model's readers are frames, memory"),
    ],
)
def test_prompt_that_does_not_name_every_stream_once_is_refused(
    folders: PartFolders, prompt: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_two_reader_model(folders, visual_prompt=prompt)


@pytest.mark.parametrize("name", ["encoder", "language_model", "bridge", "reducers", "forward", "readers", "generate"])
def test_reader_with_the_name_of_a_part_or_a_method_is_refused(folders: PartFolders, name: str) -> None:
    with pytest.raises(ValueError, match=f"readers may not be called {name}: the model has other parts"):
        make_model(folders, bridge=None, readers={name: ReaderSettings(make_bridge)})


@pytest.mark.parametrize("name", ["Frames", "fine-frames", "2nd", "fine.frames"])
def test_reader_that_a_prompt_cannot_name_is_refused(folders: PartFolders, name: str) -> None:
    with pytest.raises(ValueError, match="take names of small letters, digits and _"):
        make_model(folders, bridge=None, readers={name: ReaderSettings(make_bridge)})


def test_both_forms_of_readers_or_none_are_refused(folders: PartFolders) -> None:
    for bridge, readers in ((make_bridge, make_two_readers()), (None, None)):
        with pytest.raises(ValueError, match="exactly one of the two"):
            make_model(folders, bridge=bridge, readers=readers)
    with pytest.raises(ValueError, match="at least one reader"):
        make_model(folders, bridge=None, readers={})
    with pytest.raises(ValueError, match="several readers have their own"):
        make_model(folders, bridge=None, readers=make_two_readers(), frame_selection=LinspaceFrames(1))
