import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from components.bridges.layers.selective_update import SelectiveRecurrence
from components.bridges.mean_pooling import MeanPooling
from components.bridges.readouts.cache_and_memory import CacheAndMemoryReadout
from components.bridges.readouts.retrieved import RetrievedReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.interfaces import FrameSelection, Readout, Segmenter, VisualReader
from components.losses import EverySegmentLoss
from components.old_class_paths import NEW_CLASS_PATHS
from components.pretrained.object_builder import SettingsMismatchError, build_object
from components.pretrained.object_description import describe_arguments
from components.recorded_arguments import RecordsArguments, constructor_arguments
from components.segmenters.fixed_length import FixedLength
from components.segmenters.scene_tilling import SceneTilling
from components.selection.all_frames import AllFrames
from components.selection.linspace_frames import LinspaceFrames


@dataclass(frozen=True)
class Options:
    rank: int = 4
    names: list[str] = field(default_factory=list)


class Whole(RecordsArguments):
    """Has an argument of every form that a model has."""

    def __init__(
        self,
        segmenter: Segmenter,
        readers: dict[str, VisualReader[Any]] | None = None,
        selections: list[FrameSelection] | None = None,
        readout: Callable[[int, int], Readout] = CacheAndMemoryReadout,
        options: Options | None = None,
        name: str | None = None,
        agree: Callable[[int], int] = lambda value: value,
    ) -> None:
        self.segmenter = segmenter
        self.readers = readers
        self.selections = selections
        self.readout = readout
        self.options = options


def build_again(whole: Whole) -> Whole:
    return build_object(Whole, json.loads(json.dumps(describe_arguments(whole))), [__name__.split(".")[0]])


def test_a_described_object_is_built_again_with_all_its_parts() -> None:
    readers = {
        "memory": RecurrentMemoryBridge(
            8,
            6,
            width=16,
            num_heads=2,
            recurrence=SelectiveRecurrence(first_carry=0.25),
            readout=partial(RetrievedReadout, num_queries=3),
        ),
        "mean": MeanPooling(8, 6),
    }
    whole = Whole(SceneTilling(k=5), readers, [LinspaceFrames(3)], options=Options(2, ["q", "v"]), name="x")
    again = build_again(whole)
    assert describe_arguments(again) == describe_arguments(whole)
    memory = constructor_arguments(again.readers["memory"])  # type: ignore[index]
    assert memory["recurrence"] == SelectiveRecurrence(first_carry=0.25)
    assert memory["readout"].func is RetrievedReadout
    assert again.options == Options(2, ["q", "v"])


def test_a_class_in_place_of_a_factory_stays_a_class() -> None:
    assert build_again(Whole(FixedLength(4))).readout is CacheAndMemoryReadout


def test_functions_of_the_process_are_not_described() -> None:
    assert "agree" not in describe_arguments(Whole(FixedLength(4), agree=lambda value: value + 1))


def test_what_cannot_be_built_again_is_refused_with_its_position() -> None:
    with pytest.raises(TypeError, match=r"model\.readout is a function, which cannot be written"):
        describe_arguments(Whole(FixedLength(4), readout=lambda dim, out_dim: CacheAndMemoryReadout(dim, out_dim)))


READOUT = "components.bridges.readouts.cache_and_memory.CacheAndMemoryReadout"
FIXED = {"class_path": "components.segmenters.fixed_length.FixedLength", "init_args": {"frames": 4}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segmenter": {"class_path": "os.kill"}}, r"model\.segmenter names \['os\.kill'\], which is not of this"),
        ({"segmenter": {"class_path": "components.losses.EverySegmentLoss"}}, r"EverySegmentLoss is no Segmenter"),
        (
            {"segmenter": {"class_path": "components.checkpoints.safetensors_writer.SafetensorsWriter"}},
            "SafetensorsWriter is no Segmenter",
        ),
        ({"segmenter": {"class_path": "components.checkpoints.atomic_folder.remove"}}, r"remove is no class"),
        ({"segmenter": {"class_path": "components.segmenters.gone.Gone"}}, r"there is no class components\.segm"),
        ({"segmenter": FIXED, "readout": FIXED}, r"FixedLength is no .*Readout"),
        ({"segmenter": FIXED, "colour": 1}, r"Whole has no argument colour"),
        ({"segmenter": {**FIXED, "init_args": {"frame": 1}}}, r"model\.segmenter: FixedLength has no argument frame;"),
        ({"segmenter": FIXED, "readers": {"memory": FIXED}}, r"model\.readers\.memory: .*FixedLength is no Visual"),
    ],
)
def test_settings_that_do_not_fit_the_annotations_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsMismatchError, match=message):
        build_object(Whole, settings)


def test_class_paths_of_earlier_versions_and_paths_alone_are_read() -> None:
    old = next(old for old, new in NEW_CLASS_PATHS.items() if new.endswith(".AllFrames"))
    whole = build_object(Whole, {"segmenter": FIXED, "selections": [old], "readout": READOUT})
    assert [type(each) for each in whole.selections or []] == [AllFrames]
    assert whole.readout is CacheAndMemoryReadout


def test_a_package_of_ones_own_must_be_allowed() -> None:
    settings = {"segmenter": FIXED, "options": {"class_path": f"{__name__}.Options", "init_args": {"rank": 9}}}
    package = __name__.split(".")[0]
    with pytest.raises(SettingsMismatchError, match=r"which is not of this project"):
        build_object(Whole, settings)
    assert build_object(Whole, settings, [package]).options == Options(9)


def test_losses_and_other_policies_are_described() -> None:
    loss = EverySegmentLoss()
    assert build_object(EverySegmentLoss, describe_arguments(loss)).steps(3) == loss.steps(3)
