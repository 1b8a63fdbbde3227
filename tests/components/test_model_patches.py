"""Models that project and pool patches: a streamed video, a batch and a folder give the same numbers as without."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from components.interfaces import VisualTokens
from components.model import VideoLanguageModel
from components.pooling.patch_pooling import ConvPooling, GridPooling, WindowPooling
from components.projectors.mlp import MlpProjector
from components.selection.all_frames import AllFrames
from components.selection.linspace_frames import LinspaceFrames
from components.streaming import StreamingSession
from datamodules.batch import collate
from tests.fixtures_models import (
    PartFolders,
    make_batch,
    make_frames,
    make_mixed_samples,
    make_model,
    make_sample,
    open_gate,
)

PATCHES: dict[str, dict[str, Any]] = {
    "average": {"patch_pooling": partial(GridPooling, grid=1)},
    "max": {"patch_pooling": partial(WindowPooling, stride=2, reduction="max")},
    "convolution": {"patch_pooling": partial(ConvPooling, stride=2, out_dim=8)},
    "projected": {"projector": MlpProjector},
    "projected and pooled": {"projector": MlpProjector, "patch_pooling": partial(ConvPooling, stride=2, out_dim=8)},
}
every_form = pytest.mark.parametrize("patches", PATCHES.values(), ids=PATCHES)


def build(folders: PartFolders, **changes: Any) -> VideoLanguageModel:
    model = make_model(folders, **changes)
    open_gate(model.bridge)
    return model


def seen(visual: VisualTokens) -> torch.Tensor:
    return visual.tokens[visual.mask]


@every_form
@pytest.mark.parametrize("selection", [AllFrames(), LinspaceFrames(1)], ids=["all", "one of each segment"])
def test_streaming_equals_offline_at_every_moment(
    folders: PartFolders, patches: dict[str, Any], selection: AllFrames | LinspaceFrames
) -> None:
    model = build(folders, frame_selection=selection, **patches)
    frames = make_frames(7, seed=1)
    session = StreamingSession(model)
    for place in range(len(frames)):
        session.push(frames[place : place + 1], [1000 * place])
        offline = collate([make_sample(folders, "v", frames[: place + 1], [[("which ?", "red")]])])
        torch.testing.assert_close(seen(session.visual_tokens()), seen(model.visual_tokens(offline)))


@every_form
def test_batch_of_mixed_items_equals_the_items_one_by_one(folders: PartFolders, patches: dict[str, Any]) -> None:
    model = build(folders, **patches)
    together = model(make_batch(folders))
    alone = [model(collate([sample])) for sample in make_mixed_samples(folders)]
    expected = sum(output.loss * output.num_answer_tokens for output in alone) / together.num_answer_tokens
    torch.testing.assert_close(together.loss, expected, rtol=0, atol=1e-5)


@every_form
def test_a_model_opened_from_its_folder_gives_the_same(
    folders: PartFolders, patches: dict[str, Any], tmp_path: Path
) -> None:
    model = build(folders, **patches)
    model.save_pretrained(tmp_path / "out")
    opened, batch = VideoLanguageModel.from_pretrained(tmp_path / "out"), make_batch(folders)
    assert torch.equal(seen(opened.visual_tokens(batch)), seen(model.visual_tokens(batch)))
