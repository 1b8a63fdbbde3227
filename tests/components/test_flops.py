"""The count of a step's operations, held against torch's own counter on the steps themselves."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.bridges.mean_pooling import MeanPooling
from components.bridges.readouts.cache_and_memory import CacheAndMemoryReadout
from components.bridges.readouts.last_segment import LastSegmentReadout
from components.bridges.readouts.memory import MemoryReadout
from components.bridges.readouts.retrieved import RetrievedReadout
from components.bridges.videollamb_bridge import VideoLLaMBBridge
from components.encoders.cached import CachedFeatures
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.flops.counting import count_flops, meta_copy
from components.flops.step import ModelFlops, StepFlops, StepWork, work_of
from components.interfaces import AnswerLoss, TextInputs, VisualTokens
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from components.losses import EverySegmentLoss
from components.model import VideoLanguageModel
from components.pooling.patch_pooling import ConvPooling
from components.segmenters.fixed_length import FixedLength
from components.streams import StreamReader
from datamodules.batch import Batch, Sample, collate
from tests.components.encoders import languagebind_folders
from tests.components.tiny_language import make_model_folder
from tests.fixtures_models import (
    NUM_PATCHES,
    VISION_WIDTH,
    PartFolders,
    make_bridge,
    make_frames,
    make_mixed_samples,
    make_module,
    make_sample,
)


def even_batch(folders: PartFolders, num_frames: int = 6, num_videos: int = 2) -> Batch:
    """Videos and conversations of one length each, so that nothing is padded."""
    dialogues = [[("which colour ?", "red")], [("which shape ?", "circle")]]
    videos = [make_frames(num_frames, seed=seed) for seed in range(num_videos)]
    return collate([make_sample(folders, f"v{seed}", video, dialogues) for seed, video in enumerate(videos)])


def ran(model: VideoLanguageModel, batch: Batch) -> tuple[int, StepWork]:
    """Operations of a real step by torch's counter, and what there was to do."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        output = model.train()(batch)
        output.loss.backward()
    return counter.get_total_flops(), work_of(batch, output)


def ran_work(folders: PartFolders, num_frames: int) -> StepWork:
    """What there is to do in a step of a plain model."""
    return ran(make_module(folders).built, even_batch(folders, num_frames))[1]


def expect_equal(model: VideoLanguageModel, batch: Batch, tolerance: float = 0.03) -> StepFlops:
    real, work = ran(model, batch)
    counted = ModelFlops(model).of(work)
    assert counted.total == pytest.approx(real, rel=tolerance)
    return counted


@pytest.mark.parametrize(
    "bridge",
    [
        make_bridge,
        partial(make_bridge, num_layers=2, recurrence="selective"),
        partial(make_bridge, num_memory=24),
        partial(make_bridge, readout=MemoryReadout),
        partial(make_bridge, readout=CacheAndMemoryReadout),
        partial(make_bridge, readout=partial(LastSegmentReadout, with_memory=True)),
        partial(make_bridge, readout=RetrievedReadout),
        MeanPooling,
        partial(VideoLLaMBBridge, num_memory=3, num_heads=4, mlp_width=48),
    ],
    ids=[
        *("cache", "selective", "many", "memory", "both", "last_segment", "retrieved", "mean_pooling"),
        "videollamb",
    ],
)
@pytest.mark.parametrize("num_frames", [1, 11])
def test_step_is_counted_as_torch_counts_it(
    folders: PartFolders, bridge: Callable[[int, int], Any], num_frames: int
) -> None:
    counted = expect_equal(make_module(folders, bridge=bridge).built, even_batch(folders, num_frames))
    assert min(counted) > 0


@pytest.mark.parametrize("num_frames", [1, 11])
def test_patches_that_the_model_pools_are_counted(folders: PartFolders, num_frames: int) -> None:
    counted = expect_equal(make_module(folders, patch_pooling=ConvPooling).built, even_batch(folders, num_frames))
    assert counted.encoder > ModelFlops(make_module(folders).built).of(ran_work(folders, num_frames)).encoder


@pytest.mark.parametrize(
    "changes",
    [
        {"freeze": True},
        {"lora": LoraSettings(rank=4, dropout=0.0)},
        {"dtype": "bfloat16"},
        {"pack": True},
        {"attn": "eager"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_trains_in_the_language_model_decides_its_cost(folders: PartFolders, changes: dict[str, Any]) -> None:
    language_model = partial(HuggingFaceCausalLM, folders.language_model, **changes)
    expect_equal(make_module(folders, language_model=language_model).built, even_batch(folders))


@pytest.mark.parametrize("model_type", ["qwen2", "gpt_neox"])
def test_other_language_models_are_counted_too(model_type: str, folders: PartFolders, tmp_path: Path) -> None:
    folder = str(make_model_folder(tmp_path, model_type, max_position_embeddings=256))
    module = make_module(folders, language_model=partial(HuggingFaceCausalLM, folder))
    expect_equal(module.built, even_batch(folders._replace(language_model=folder)))


def test_parts_add_up_and_a_frozen_encoder_is_forward_only(folders: PartFolders) -> None:
    model = make_module(folders).built
    batch = even_batch(folders)
    _, work = ran(model, batch)
    counted = ModelFlops(model).of(work)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.encoder(batch.frames, batch.frame_counts)
    assert counted.encoder == counter.get_total_flops()
    assert counted.total == counted.encoder + counted.readers + counted.language_model


def test_language_model_is_counted_by_the_formula_of_the_documentation(folders: PartFolders) -> None:
    """Linear layers: 2 a weight and position; attention: 4 times width and positions; thrice that with the backward."""
    model = make_module(folders).built
    config = model.language_model.model.config
    layers = model.language_model.model.model.layers
    weights = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
    batch = even_batch(folders)
    _, work = ran(model, batch)
    positions = (work.text_tokens + 16).double()  # the readout gives 16 visual tokens
    width = config.num_attention_heads * config.head_dim
    forward = 2 * weights * positions.sum() + 4 * config.num_hidden_layers * width * positions.square().sum()
    forward += 2 * config.hidden_size * config.vocab_size * work.answer_tokens.sum()
    assert ModelFlops(model).of(work).language_model == pytest.approx(3 * float(forward), rel=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_computed_twice_to_save_memory_counts_once(folders: PartFolders, checkpointing: bool) -> None:
    language_model = partial(HuggingFaceCausalLM, folders.language_model, gradient_checkpointing=checkpointing)
    once = make_module(folders).built
    twice = make_module(folders, language_model=language_model, loss_schedule=EverySegmentLoss()).built
    batch = even_batch(folders)
    real, work = ran(twice, batch)
    counted = ModelFlops(twice).of(work)
    assert counted.total < 0.9 * real
    # 3 segments are read: three times the language model, and the same bridge with three readouts.
    assert counted.language_model == pytest.approx(3 * ModelFlops(once).of(work).language_model)


def test_padding_is_no_work(folders: PartFolders) -> None:
    model = make_module(folders, loss_schedule=EverySegmentLoss()).built
    samples: list[Sample] = make_mixed_samples(folders)
    flops = ModelFlops(model)
    real, work = ran(model, collate(samples))
    together = flops.of(work)
    alone = [flops.of(ran(model, collate([sample]))[1]) for sample in samples]
    assert together.total < real
    for part in range(3):
        assert together[part] == pytest.approx(sum(each[part] for each in alone))
    assert alone[1].encoder == alone[1].readers == 0.0  # the sample of text
    assert alone[1].language_model > 0.0


def test_cached_features_cost_nothing(folders: PartFolders) -> None:
    model = make_module(folders, encoder=lambda: CachedFeatures(VISION_WIDTH, NUM_PATCHES)).built
    features = torch.randn(4, 1 + NUM_PATCHES, VISION_WIDTH)
    batch = collate([make_sample(folders, "cached", features, [[("which colour ?", "red")]])])
    assert expect_equal(model, batch).encoder == 0.0


def test_encoder_that_trains_costs_its_backward_too(folders: PartFolders) -> None:
    model = make_module(folders, encoder=partial(HuggingFaceVisionEncoder, folders.encoder, layer=-1)).built
    frozen = make_module(folders).built
    model.encoder.requires_grad_(True)
    batch = even_batch(folders)
    counted, base = expect_equal(model, batch), expect_equal(frozen, batch)
    assert 2.4 * base.encoder < counted.encoder < 3.0 * base.encoder  # pixels need no gradient


@pytest.mark.parametrize("count", [1, 5, 8, 9, 16, 21, 40])
def test_windows_of_frames_are_counted_as_torch_counts_them(count: int, tmp_path: Path) -> None:
    encoder = languagebind_folders.build(languagebind_folders.write_folders(tmp_path))
    model = VideoLanguageModel(
        encoder=encoder,
        segmenter=FixedLength(2),
        readers=StreamReader(MeanPooling(encoder.dim, 8)),
        language_model=nn.Identity(),  # type: ignore[arg-type]
    )
    frames = languagebind_folders.random_frames(count)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        encoder(frames, torch.tensor([count]))
    none = torch.zeros(0, dtype=torch.long)
    work = StepWork(torch.tensor([count]), {"memory": none[None]}, none[:, None], none, none, none)
    assert ModelFlops(model).of(work).encoder == counter.get_total_flops()


def test_copy_keeps_ties_and_leaves_the_module_alone(folders: PartFolders) -> None:
    module = nn.ModuleDict({"one": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    module["other"].weight = module["one"].weight
    module["one"].bias.requires_grad_(False)
    calls: list[int] = []
    module["one"].register_forward_hook(lambda *_: calls.append(1))
    copied = meta_copy(module)
    copied["one"](torch.empty(2, 4, device="meta"))
    assert copied["one"].weight is copied["other"].weight
    assert copied["one"].weight.is_meta
    assert not copied["one"].bias.requires_grad
    assert calls == []
    assert not module["one"].weight.is_meta


def test_sharded_parameters_count_whole() -> None:
    layer = nn.Linear(6, 5, bias=False)
    layer.weight.ds_shape = layer.weight.shape  # type: ignore[assignment]  # as ZeRO-3 leaves a parameter
    layer.weight.data = torch.empty(0)
    flops, _ = count_flops(lambda: meta_copy(layer)(torch.empty(3, 6, device="meta")))
    assert flops == 2 * (2 * 3 * 6 * 5)  # forward and the weight's gradient


def test_masks_pick_as_many_as_they_hold() -> None:
    layer = nn.Linear(4, 4)
    tokens, mask = torch.empty(6, 4, device="meta"), torch.tensor([True, False, True, True, False, False])
    copied = meta_copy(layer)
    _, picked = count_flops(lambda: copied(tokens[mask]))
    assert picked.shape == (3, 4)


class CubicLanguageModel(HuggingFaceCausalLM):
    """Costs more with every position than attention does."""

    def forward(self, visual: VisualTokens, text: TextInputs) -> AnswerLoss:
        loss, length = super().forward(visual, text), text.input_ids.shape[1]
        cube = visual.tokens.new_zeros(length, length * length) @ visual.tokens.new_zeros(length * length, 300)
        return loss._replace(nll=loss.nll + 0.0 * cube.sum())


def test_cost_of_an_unknown_form_is_refused(folders: PartFolders) -> None:
    model = make_module(folders, language_model=partial(CubicLanguageModel, folders.language_model)).built
    _, work = ran(model, even_batch(folders))
    with pytest.raises(ValueError, match="cost of CubicLanguageModel is not quadratic in the"):
        ModelFlops(model).of(work)


def test_many_segments_follow_from_a_few(folders: PartFolders) -> None:
    bridge = partial(VideoLLaMBBridge, num_memory=3, num_heads=4, mlp_width=48)
    counted = expect_equal(make_module(folders, bridge=bridge).built, even_batch(folders, 40), tolerance=0.005)
    assert counted.readers > 0
