"""Whole models that resample frames, show newlines, and show pictures in tiles."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.bridges.readouts.retrieved import RetrievedReadout
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.flops.step import ModelFlops, work_of
from components.interfaces import FrameResampling, PictureLayout, WholeVideo
from components.model import VideoLanguageModel
from components.newline import Newline
from components.projectors.mlp import MlpProjector
from components.segmenters.fixed_length import FixedLength
from components.selection.segment_multiples import SegmentMultiples
from components.streaming import StreamingSession
from datamodules.batch import Batch, Sample, collate
from tests.fixtures_models import (
    NUM_PATCHES,
    PartFolders,
    make_batch,
    make_bridge,
    make_frames,
    make_model,
    make_sample,
)

QUESTION = [[("which ?", "red")]]


class Rows(PictureLayout):
    """Shows every patch of every tile, and a newline after each tile."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, patches: Tensor, size: tuple[int, int], newline: Tensor) -> Tensor:
        line = newline.expand(len(patches), 1, self.dim)
        return torch.cat([patches, line], dim=1).flatten(0, 1)


def build(folders: PartFolders, **changes: Any) -> VideoLanguageModel:
    return make_model(folders, **({"projector": MlpProjector, "newline": Newline, "picture_layout": Rows} | changes))


def picture(folders: PartFolders, tiles: int, seed: int = 0) -> Sample:
    sample = make_sample(folders, "p", make_frames(tiles, seed=seed), QUESTION)
    return sample._replace(media=tuple(medium._replace(picture_size=(9, 7)) for medium in sample.media))


def videos_and_a_picture(folders: PartFolders) -> list[Sample]:
    text = make_sample(folders, "t", None, QUESTION)
    return [
        make_sample(folders, "a", make_frames(5, seed=1), QUESTION),
        picture(folders, 4, seed=2),
        text,
        make_sample(folders, "b", make_frames(2, seed=3), QUESTION),
    ]


def test_a_picture_in_tiles_is_shown_as_its_layout_arranges_it(folders: PartFolders) -> None:
    model = build(folders)
    batch = collate([picture(folders, 3)])
    visual = model.visual_tokens(batch)
    assert model.projector is not None
    assert model.newline is not None
    patches = model.projector(model.encoder(batch.frames, batch.frame_counts).patches)
    expected = torch.cat([torch.cat([tile, model.newline()[None]]) for tile in patches])
    torch.testing.assert_close(visual.tokens[visual.mask], expected)


def test_a_batch_with_a_picture_equals_its_items_one_by_one(folders: PartFolders) -> None:
    model = build(folders, visual_prompt="look at<memory><newline>")
    samples = videos_and_a_picture(folders)
    together = model(collate(samples))
    alone = [model(collate([sample])) for sample in samples]
    expected = sum(output.loss * output.num_answer_tokens for output in alone) / together.num_answer_tokens
    torch.testing.assert_close(together.loss, expected, rtol=0, atol=1e-5)


def test_a_picture_that_no_conversation_shows_changes_nothing_for_readers_of_questions(folders: PartFolders) -> None:
    model = build(folders, bridge=partial(make_bridge, readout=partial(RetrievedReadout, num_queries=2, num_heads=2)))
    video = make_sample(folders, "a", make_frames(3), QUESTION)
    with_picture = video._replace(media=(*video.media, *picture(folders, 4).media))
    torch.testing.assert_close(model(collate([with_picture])).loss, model(collate([video])).loss)


def test_every_part_has_a_gradient_with_and_without_pictures_and_videos(folders: PartFolders) -> None:
    model = build(folders, visual_prompt="<memory><newline>").train()
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    text = collate([make_sample(folders, "t", None, QUESTION)])
    for batch in (collate(videos_and_a_picture(folders)), make_batch(folders), text):
        model.zero_grad(set_to_none=True)
        model(batch).loss.backward()
        assert names == {name for name, each in model.named_parameters() if each.grad is not None}


def test_projector_and_newline_are_called_equally_often_with_and_without_pictures(folders: PartFolders) -> None:
    model = build(folders, visual_prompt="<memory><newline>")
    calls: list[str] = []
    for name in ("encoder", "projector", "newline", "bridge"):
        part = model.get_submodule(name)
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    counted = []
    # Of one segment each, because the readers are called once a segment.
    for batch in (collate([picture(folders, 3)]), collate([make_sample(folders, "a", make_frames(2), QUESTION)])):
        calls.clear()
        model(batch)
        counted.append(sorted(calls))
    assert counted[0] == counted[1]


def test_the_operations_of_pictures_are_counted_as_torch_counts_them(folders: PartFolders) -> None:
    model = build(folders, visual_prompt="look at<memory><newline>").train()
    batch = collate([picture(folders, 6, seed=seed) for seed in range(2)])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = model(batch)
        output.loss.backward()
    assert output.picture_tokens == {0: 6 * (NUM_PATCHES + 1), 1: 6 * (NUM_PATCHES + 1)}
    assert ModelFlops(model).of(work_of(batch, output)).total == pytest.approx(counter.get_total_flops(), rel=0.03)


class Learned(Rows):
    """A layout with weights."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale = torch.nn.Linear(dim, dim)


def test_a_layout_with_weights_is_refused(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match="picture_layout Learned has weights"):
        build(folders, picture_layout=Learned)


def test_an_encoder_that_would_read_tiles_as_a_video_is_refused(folders: PartFolders) -> None:
    def encoder() -> HuggingFaceVisionEncoder:
        built = HuggingFaceVisionEncoder(folders.encoder, layer=-1)
        built.window_frames = 8
        return built

    with pytest.raises(ValueError, match="HuggingFaceVisionEncoder reads several frames together"):
        build(folders, encoder=encoder)


def test_a_picture_in_tiles_without_a_layout_is_refused(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match=r"set model\.picture_layout, or data\.pixels\.tiles to null"):
        make_model(folders)(collate([picture(folders, 2)]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"newline": None, "picture_layout": None, "visual_prompt": "<memory><newline>"}, r"set model\.newline"),
        ({"newline": None}, r"picture_layout shows a learned vector.*set model\.newline"),
        ({"picture_layout": None}, "a newline vector that nothing shows"),
    ],
)
def test_a_newline_that_is_missing_or_not_shown_is_refused(
    folders: PartFolders, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(folders, **changes)


class Backwards(FrameResampling):
    """The last frames, each twice."""

    def frame_index(self, video: WholeVideo) -> Tensor:
        return torch.arange(video.num_frames // 2, video.num_frames).repeat_interleave(2)


@pytest.mark.parametrize("resampling", [Backwards(), SegmentMultiples(2)])
def test_resampled_frames_are_read_as_a_video_of_these_frames(
    folders: PartFolders, resampling: FrameResampling
) -> None:
    resampled = make_model(folders, frame_resampling=resampling, segmenter=FixedLength(2))
    plain = make_model(folders, segmenter=FixedLength(2))
    frames = make_frames(7, seed=1)
    index = resampling.frame_index(WholeVideo.of_length(7))
    sample = make_sample(folders, "a", frames, QUESTION)
    copied = make_sample(folders, "a", frames[index], QUESTION)
    times = tuple(medium._replace(frame_ms=sample.media[0].frame_ms[index]) for medium in copied.media)
    expected = plain.visual_tokens(collate([copied._replace(media=times)]))
    found = resampled.visual_tokens(collate([sample]))
    torch.testing.assert_close(found.tokens, expected.tokens)
    assert torch.equal(found.mask, expected.mask)


def test_resampled_frames_keep_their_number_in_the_video(folders: PartFolders) -> None:
    model = make_model(folders, frame_resampling=SegmentMultiples(2), segmenter=FixedLength(2))
    batch: Batch = collate([make_sample(folders, "a", make_frames(3), QUESTION)])
    segments = model.read_videos(model.packed_videos(batch)).segments["memory"]
    assert segments.frame_number.tolist() == [[[0, 0], [1, 2]]]


def test_a_model_that_resamples_cannot_stream(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match="frame_resampling is null"):
        StreamingSession(make_model(folders, frame_resampling=SegmentMultiples(2)))
