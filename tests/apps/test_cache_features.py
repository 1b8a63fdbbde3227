"""The feature cache gives training what pixels would, encodes nothing twice and never keeps what has become wrong."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from apps import cache_features
from apps.cache_features import DistinctFrames
from components.encoders.cached import CachedFeatures
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.patches import reduced_patches
from components.pooling.patch_pooling import GridPooling
from datamodules.batch import Batch, collate
from datamodules.conversations import load_tokenizer
from datamodules.dataset import ConversationDataset
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.order.training_order import Draw
from datamodules.shards.shard_index import load_index
from datamodules.shards.shard_reader import ShardReader
from tests.datamodules.several_media import record_of, write_several
from tests.fixtures_data import make_clip, make_image, make_record, write_shard
from tests.fixtures_models import IMAGE_SIZE, NUM_PATCHES, VISION_WIDTH, PartFolders, make_module, make_part_folders

CONFIG = """
model:
  encoder:
    class_path: components.encoders.hugging_face.HuggingFaceVisionEncoder
    init_args: {{path: {encoder}, layer: -1}}
  bridge: {{class_path: components.bridges.mean_pooling.MeanPooling}}
  language_model:
    class_path: components.language.causal.HuggingFaceCausalLM
    init_args: {{path: {language_model}}}
  segmenter: {{class_path: components.segmenters.fixed_length.FixedLength, init_args: {{frames: 2}}}}
data:
  tokenizer: {language_model}
  sampling: {{num_frames: null, fps: 4, max_frames: 64}}
  pixels: {{size: 28}}
  loading: {{num_workers: 0}}
"""


@pytest.fixture
def folders(tmp_path: Path) -> PartFolders:
    return make_part_folders(tmp_path)


@pytest.fixture
def config(tmp_path: Path, folders: PartFolders) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(**folders._asdict()), encoding="utf-8")
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    samples = [
        ("video", make_record(), make_clip(5), "mp4"),
        ("image", make_record(), make_image(40), "png"),
        ("text", make_record(media=False), None, None),
    ]
    return write_shard(tmp_path / "pixels" / "train-000000.tar", samples)


def run(config: Path, shard: Path, *more: str) -> Path:
    out = shard.parent.parent / "features"
    cache_features.main(["-c", str(config), "--shards", str(shard), "--out", str(out), "--device", "cpu", *more])
    return out / shard.name


def batch_of(shard: Path, folders: PartFolders) -> Batch:
    reader = ShardReader([load_index(shard)])
    sampling = FrameSampling(num_frames=None, fps=4, max_frames=64)
    media = MediaReader(sampling, PixelTransform(PixelOptions(size=IMAGE_SIZE), train=False))
    dataset = ConversationDataset(reader, load_tokenizer(folders.language_model), media)
    return collate(dataset.__getitems__([Draw(index, index) for index in range(len(reader))]))


def test_loss_from_features_equals_loss_from_pixels(config: Path, shard: Path, folders: PartFolders) -> None:
    from_pixels = make_module(folders).built.eval()(batch_of(shard, folders))
    cached = make_module(folders, encoder=lambda: CachedFeatures(VISION_WIDTH, NUM_PATCHES)).built.eval()
    from_features = cached(batch_of(run(config, shard), folders))
    torch.testing.assert_close(from_features.loss, from_pixels.loss, atol=1e-5, rtol=0)


POOLING = "--model.patch_pooling={class_path: components.pooling.patch_pooling.%s, init_args: {%s}}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cache_has_the_patches_as_the_model_pools_them(
    dtype: str, config: Path, shard: Path, folders: PartFolders
) -> None:
    option = POOLING % ("GridPooling", "grid: 2, reduction: bilinear")
    written = run(config, shard, option, f"--model.encoder.init_args.dtype={dtype}")
    pooling = partial(GridPooling, grid=2, reduction="bilinear")
    encoder = partial(HuggingFaceVisionEncoder, folders.encoder, layer=-1, dtype=dtype)
    from_pixels = make_module(folders, encoder=encoder, patch_pooling=pooling).built.eval()(batch_of(shard, folders))
    cached = partial(CachedFeatures, VISION_WIDTH, 4)
    module = make_module(folders, encoder=cached, patch_pooling=pooling).built.eval()
    from_features = module(batch_of(written, folders))
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    torch.testing.assert_close(from_features.loss, from_pixels.loss, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        [POOLING % ("WindowPooling", "stride: 2")],
        [
            POOLING % ("GridPooling", "grid: 2"),
            "--model.projector={class_path: components.projectors.mlp.MlpProjector}",
        ],
    ],
)
def test_patches_that_training_would_pool_differently_are_cached_unpooled(
    options: list[str], config: Path, shard: Path, folders: PartFolders
) -> None:
    assert batch_of(run(config, shard, *options), folders).frames.shape[1:] == (1 + NUM_PATCHES, VISION_WIDTH)


def test_saliency_and_joint_embedding_are_cached_and_the_reading_encoder_is_printed(
    config: Path, shard: Path, tmp_path: Path, folders: PartFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = sizes | {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    vision = sizes | {"image_size": IMAGE_SIZE, "patch_size": 7}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=20)).save_pretrained(tmp_path / "clip")
    shutil.copy(Path(folders.encoder) / "preprocessor_config.json", tmp_path / "clip")
    options = {"layer": -1, "saliency_layer": 1, "joint": True}
    settings = [f"--model.encoder.init_args.{name}={str(value).lower()}" for name, value in options.items()]
    settings += [f"--model.encoder.init_args.path={tmp_path / 'clip'}", POOLING % ("GridPooling", "grid: 2")]
    cached = batch_of(run(config, shard, *settings), folders)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["class_path"] == "components.encoders.cached.CachedFeatures"
    assert printed["init_args"] == {"dim": 16, "num_patches": 4, "saliency": True, "joint_dim": 20}
    given = CachedFeatures(**printed["init_args"])(cached.frames, cached.frame_counts)
    encoder = HuggingFaceVisionEncoder(str(tmp_path / "clip"), **options)
    pixels = batch_of(shard, folders)
    direct = reduced_patches(encoder(pixels.frames, pixels.frame_counts), None, GridPooling(16, grid=2), torch.float32)
    torch.testing.assert_close(given, direct, atol=1e-6, rtol=1e-5)


def test_text_and_records_are_kept(config: Path, shard: Path) -> None:
    reader = ShardReader([load_index(run(config, shard))])
    video, image, text = (reader.read(index) for index in range(3))
    endings = [[medium.ending for medium in raw.media] for raw in (video, image, text)]
    assert endings == [["safetensors"], ["safetensors"], []]
    assert video.record.meta["num_frames"] == 5
    assert text.record.conversations == ShardReader([load_index(shard)]).read(2).record.conversations


def test_several_media_become_several_feature_members(config: Path, tmp_path: Path, folders: PartFolders) -> None:
    record = record_of("<video> or <video> ?", "<video_1> ?", media=[{"meta": {"width": 64}}, {}])
    media = [(make_clip(5), "mp4"), (make_image(40), "png")]
    pixels = write_several(tmp_path / "pixels" / "train-000000.tar", [("album", record, media)])
    cached = run(config, pixels)
    (album,) = load_index(cached).entries
    assert ([medium.ending for medium in album.media], album.num_frames) == (["0.safetensors", "1.safetensors"], 6)
    assert album.media[0].meta == {"width": 64, "num_frames": 5}
    before, after = batch_of(pixels, folders), batch_of(cached, folders)
    for name in ("frame_counts", "frame_ms", "input_ids", "labels", "video_index"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    features = HuggingFaceVisionEncoder(folders.encoder, layer=-1)(before.frames, before.frame_counts)
    torch.testing.assert_close(after.frames[:, 1:], features.patches, atol=1e-5, rtol=1e-5)


def test_equal_frames_are_encoded_once_and_give_what_they_give_alone(folders: PartFolders) -> None:
    encode = DistinctFrames(HuggingFaceVisionEncoder(folders.encoder, layer=-1))
    distinct = torch.randint(0, 256, (3, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)
    frames = distinct[[0, 1, 0, 2, 2]]
    features = encode(frames, torch.tensor([5]))
    assert encode.num_encoded == 3
    alone = encode.encoder(frames, torch.tensor([5]))
    torch.testing.assert_close(features[:, 0], alone.cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features[:, 1:], alone.patches, atol=1e-5, rtol=1e-5)
    encode(distinct, torch.tensor([3]))
    assert encode.num_encoded == 3


def test_forgotten_frames_are_encoded_again(folders: PartFolders) -> None:
    encode = DistinctFrames(HuggingFaceVisionEncoder(folders.encoder, layer=-1), max_bytes=0)
    frame = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    torch.testing.assert_close(encode(frame, torch.tensor([1])), encode(frame, torch.tensor([1])))
    assert encode.num_encoded == 2


def test_same_settings_keep_a_shard_and_others_write_it_again(config: Path, shard: Path) -> None:
    written = run(config, shard)
    first = written.stat().st_ino
    assert run(config, shard).stat().st_ino == first
    assert run(config, shard, "--data.sampling.fps=2").stat().st_ino != first
    assert ShardReader([load_index(written)]).read(0).record.meta["num_frames"] < 5


def test_cached_features_are_refused_as_source(config: Path, shard: Path) -> None:
    features = run(config, shard)
    with pytest.raises(ValueError, match="cached features already"):
        cache_features.main(["-c", str(config), "--shards", str(features), "--out", str(shard.parent / "again")])


def test_tiles_of_pictures_are_refused(config: Path, shard: Path) -> None:
    with pytest.raises(ValueError, match=r"hold no tiles of pictures: train from pixels, or set data\.pixels\.tiles"):
        run(config, shard, "--data.pixels.tiles.per_side=2")
