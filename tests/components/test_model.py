from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from components.bridges.mean_pooling import MeanPooling
from components.bridges.readouts.memory import MemoryReadout
from components.bridges.readouts.retrieved import RetrievedReadout
from components.encoders.cached import CachedFeatures
from components.interfaces import LossSchedule, VisualReader
from components.losses import EverySegmentLoss, FinalSegmentLoss
from components.model import VideoLanguageModel
from components.model_output import ModelOutput
from datamodules.batch import Batch, Sample, SampleMedia, collate
from tests.fixtures_models import (
    NUM_PATCHES,
    VISION_WIDTH,
    PartFolders,
    make_batch,
    make_bridge,
    make_frames,
    make_mixed_samples,
    make_model,
    make_sample,
    open_gate,
)

every_bridge = pytest.mark.parametrize(
    "bridge",
    [make_bridge, MeanPooling, partial(make_bridge, readout=RetrievedReadout)],
    ids=["recurrent", "mean_pooling", "reads_questions"],
)
every_schedule = pytest.mark.parametrize(
    "schedule", [FinalSegmentLoss(), EverySegmentLoss("increasing")], ids=["final", "every"]
)


def open_model(folders: PartFolders, **changes: Any) -> VideoLanguageModel:
    """A model whose bridge, if it has a gate, carries memory."""
    model = make_model(folders, **changes)
    if hasattr(model.bridge, "gate"):
        open_gate(model.bridge)
    return model


def with_features(model: VideoLanguageModel, sample: Sample) -> Sample:
    """The sample with what the model's encoder makes of its frames instead of the frames."""
    media = []
    for frames, frame_ms, _ in sample.media:
        features = model.encoder(frames, torch.tensor([len(frames)]))
        media.append(SampleMedia(torch.cat([features.cls.unsqueeze(1), features.patches], dim=1), frame_ms))
    return sample._replace(media=tuple(media))


def cached_encoder() -> CachedFeatures:
    return CachedFeatures(VISION_WIDTH, NUM_PATCHES)


@every_bridge
@every_schedule
def test_batch_of_mixed_items_equals_the_items_one_by_one(
    folders: PartFolders, bridge: Callable[[int, int], VisualReader[Any]], schedule: LossSchedule
) -> None:
    model = open_model(folders, bridge=bridge, loss_schedule=schedule)
    together = model(make_batch(folders))
    alone = [model(collate([sample])) for sample in make_mixed_samples(folders)]
    tokens = sum(output.num_answer_tokens for output in alone)
    assert together.num_answer_tokens == tokens
    expected = sum(output.loss * output.num_answer_tokens for output in alone) / tokens
    torch.testing.assert_close(together.loss, expected, rtol=0, atol=1e-5)
    assert together.segment_counts.tolist() == [count for output in alone for count in output.segment_counts.tolist()]


def test_gradient_of_a_mixed_batch_equals_that_of_its_items(folders: PartFolders) -> None:
    model = open_model(folders)
    samples = make_mixed_samples(folders)
    parameters = [p for p in model.parameters() if p.requires_grad]
    together = torch.autograd.grad(model(collate(samples)).loss, parameters)
    outputs = [model(collate([sample])) for sample in samples]
    tokens = sum(output.num_answer_tokens for output in outputs)
    alone = torch.autograd.grad(sum(out.loss * out.num_answer_tokens for out in outputs) / tokens, parameters)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_two_conversations_on_one_video_equal_two_samples(folders: PartFolders) -> None:
    model = open_model(folders)
    frames = make_frames(4)
    dialogues = [[("which colour ?", "red")], [("which shape ?", "square")]]
    shared = model(collate([make_sample(folders, "both", frames, dialogues)]))
    split = model(collate([make_sample(folders, "one", frames, [dialogue]) for dialogue in dialogues]))
    assert shared.segment_counts.tolist() == [2]
    torch.testing.assert_close(shared.loss, split.loss, rtol=0, atol=1e-5)


def test_answers_of_a_mixed_batch_equal_those_of_its_items(folders: PartFolders) -> None:
    model = open_model(folders)
    together = model.generate(make_batch(folders), max_new_tokens=4)
    alone = [model.generate(collate([sample]), max_new_tokens=4) for sample in make_mixed_samples(folders)]
    assert together == [answer for answers in alone for answer in answers]
    assert len(set(together)) > 1


def test_option_scores_of_a_mixed_batch_equal_those_of_its_items(folders: PartFolders) -> None:
    model = open_model(folders)
    samples = make_mixed_samples(folders)
    options = ["red", "green circle"]
    together = model.score_options(collate(samples), [options] * sum(len(s.conversations) for s in samples))
    alone = [model.score_options(collate([sample]), [options] * len(sample.conversations)) for sample in samples]
    torch.testing.assert_close(torch.stack(together), torch.cat([torch.stack(scores) for scores in alone]))


@every_bridge
@every_schedule
def test_padding_to_more_segments_changes_nothing(
    folders: PartFolders, bridge: Callable[[int, int], VisualReader[Any]], schedule: LossSchedule
) -> None:
    batch = make_batch(folders)
    model = open_model(folders, bridge=bridge, loss_schedule=schedule)
    plain = model(batch)
    model.agree_on_maximum = lambda own: own + 3  # another rank has a longer video
    padded = model(batch)
    torch.testing.assert_close(padded.loss, plain.loss, rtol=0, atol=1e-5)
    assert torch.equal(padded.segment_counts, plain.segment_counts)
    assert model.generate(batch, 3) == open_model(folders, bridge=bridge).generate(batch, 3)


@every_schedule
def test_loss_and_gradients_are_finite(folders: PartFolders, schedule: LossSchedule) -> None:
    model = open_model(folders, loss_schedule=schedule)
    output: ModelOutput = model(make_batch(folders))
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert output.loss.isfinite()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)


@pytest.mark.parametrize("gate", [0.0, 0.7], ids=["gate_closed", "gate_open"])
@every_schedule
def test_gradient_reaches_the_memory_and_the_first_segments_features(
    folders: PartFolders, schedule: LossSchedule, gate: float
) -> None:
    pixels = make_model(folders)
    model = make_model(folders, encoder=cached_encoder, loss_schedule=schedule)
    open_gate(model.bridge, gate)
    sample = make_sample(folders, "video", make_frames(6), [[("which colour ?", "red")]])
    batch = collate([with_features(pixels, sample)])
    frames = batch.frames.clone().requires_grad_()
    model(batch._replace(frames=frames)).loss.backward()
    assert frames.grad is not None
    reached = frames.grad[:, 1:].abs().amax(dim=(1, 2))  # [F], patches only: the class vector decides the cuts
    assert bool((reached[:2] > 0).all())
    assert bool(model.bridge.initial_memory.grad.abs().sum(dim=1).gt(0).all())


def test_memory_readout_reaches_the_first_segment_through_the_gate_alone(folders: PartFolders) -> None:
    model = make_model(
        folders, encoder=cached_encoder, bridge=partial(make_bridge, readout=MemoryReadout, recurrence="replacing")
    )
    sample = make_sample(folders, "video", torch.randn(4, 1 + NUM_PATCHES, VISION_WIDTH), [[("which ?", "red")]])
    reached = {}
    for gate in (0.0, 0.7):
        open_gate(model.bridge, gate)
        frames = collate([sample]).frames.requires_grad_()
        model(collate([sample])._replace(frames=frames)).loss.backward()
        assert frames.grad is not None
        reached[gate] = float(frames.grad[:2].abs().max())
    assert reached[0.0] == 0.0
    assert reached[0.7] > 0.0


@every_bridge
def test_text_only_batch_touches_every_trainable_part(
    folders: PartFolders, bridge: Callable[[int, int], VisualReader[Any]]
) -> None:
    model = make_model(folders, bridge=bridge)
    output = model(collate([make_sample(folders, "text", None, [[("say hello", "hello")]])]))
    output.loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(not p.grad.any() for p in model.bridge.parameters() if p.grad is not None)
    assert output.segment_counts.numel() == 0


def test_bridge_stays_in_the_graph_even_if_the_language_model_drops_what_no_conversation_shows(
    folders: PartFolders,
) -> None:
    model = make_model(folders)
    model.language_model.register_forward_pre_hook(
        lambda _, inputs: (inputs[0]._replace(tokens=inputs[0].tokens.detach()), inputs[1])
    )
    model(collate([make_sample(folders, "text", None, [[("say hello", "hello")]])])).loss.backward()
    assert [name for name, p in model.bridge.named_parameters() if p.grad is None] == []


def test_cached_features_give_the_same_loss_and_answers_as_pixels(folders: PartFolders) -> None:
    pixels, cached = open_model(folders), open_model(folders, encoder=cached_encoder)
    samples = make_mixed_samples(folders)
    features = collate([with_features(pixels, sample) for sample in samples])
    torch.testing.assert_close(cached(features).loss, pixels(collate(samples)).loss, rtol=0, atol=1e-5)
    assert cached.generate(features, 3) == pixels.generate(collate(samples), 3)


def test_half_precision_features_are_read_by_a_float32_bridge(folders: PartFolders) -> None:
    pixels, cached = make_model(folders), open_model(folders, encoder=cached_encoder)
    full = collate([with_features(pixels, sample) for sample in make_mixed_samples(folders)])
    half = full._replace(frames=full.frames.bfloat16())
    torch.testing.assert_close(cached(half).loss, cached(full).loss, rtol=0, atol=0.1)


def test_more_frames_of_other_videos_do_not_change_what_a_video_says(folders: PartFolders) -> None:
    model = open_model(folders)

    def tokens(batch: Batch) -> Tensor:
        return model.visual_tokens(batch).tokens[0]

    video = make_sample(folders, "video", make_frames(3), [[("which ?", "red")]])
    longer = make_sample(folders, "longer", make_frames(9, seed=5), [[("which ?", "red")]])
    torch.testing.assert_close(tokens(collate([video, longer])), tokens(collate([video])), rtol=1e-5, atol=1e-5)


def test_ten_questions_about_a_video_encode_it_once_and_read_each_segment_once(folders: PartFolders) -> None:
    model = make_model(folders)
    questions = [f"how many {'red ' * number}?" for number in range(10)]
    batch = collate([make_sample(folders, "v", make_frames(6), [[(question, "one")] for question in questions])])
    frames, segments, readings = [], [], []
    model.encoder.register_forward_hook(lambda _, inputs, output: frames.append(len(output.cls)))
    model.bridge.register_forward_hook(lambda *_: segments.append(1))
    read = model.bridge.read
    with patch.object(model.bridge, "read", lambda *given, **options: readings.append(1) or read(*given, **options)):
        scores = model.score_options(batch, [["one", "two", "red", "blue"]] * 10)
    assert frames == [6]
    assert len(segments) == 3  # two frames each
    assert len(readings) == 1
    assert [len(each) for each in scores] == [4] * 10
