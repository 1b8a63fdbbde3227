r"""Writes a frozen encoder's outputs into feature shards, which training then reads instead of pixels.

    python -m apps.cache_features -c configs/quickstart_pixels.yaml \
        --shards runs/quickstart/videos --out runs/quickstart/features

Encoder, frame sampling and pixel settings come from the training config, so the loss is the same as from pixels (up to
rounding in the encoder's dtype). Augmentation must be off, because a cached frame cannot change.
Patches are pooled before they are stored if ``model.patch_pooling`` is a ``GridPooling`` and there is no projector, for
training then pools them again without any change. Saliency and joint embedding are stored if the encoder gives them. At
the end the command prints the encoder to train with.
Every shard gives one of the same name in the output folder. A shard that exists and was made from the same data and
settings (see ``features.json``) is kept, so the same command resumes a stopped run. Others are written again.
Equal frames are encoded once if the encoder reads each frame by itself.
"""

import argparse
import hashlib
import json
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from command_errors import run_and_exit
from components.encoders.cached import CachedFeatures, cache_matrices
from components.interfaces import FrameEncoder
from components.patches import reduced_patches
from components.pooling.patch_pooling import GridPooling
from datamodules.instruction import InstructionDataModule
from datamodules.media.media_reader import MediaReader
from datamodules.media.sample_media import SampleMedia
from datamodules.media.transforms import Augmentation, PixelTransform
from datamodules.shards.member_names import FEATURE_ENDINGS
from datamodules.shards.shard_index import ShardIndex
from datamodules.shards.shard_reader import RawSample, ShardReader, open_shards
from datamodules.shards.shard_writer import ShardWriter
from lightning_modules.console.command_line import VideoLanguageCLI
from lightning_modules.console.option_spelling import add_option
from lightning_modules.video_language import VideoLanguageModule


class _Decoded(NamedTuple):
    """One sample before encoding; text-only samples have no media."""

    raw: RawSample
    media: tuple[SampleMedia, ...]  # uint8 frames


class _DecodedSamples(Dataset[_Decoded]):
    """Decodes in the loader's worker processes."""

    def __init__(self, reader: ShardReader, media: MediaReader) -> None:
        self.reader = reader
        self.media = media

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> _Decoded:
        raw = self.reader.read(index)
        if any(medium.ending in FEATURE_ENDINGS for medium in raw.media):
            raise ValueError(f"{raw.where} has cached features already; give shards of videos or images")
        return _Decoded(raw, tuple(self.media.read(medium, seed=(0,)) for medium in raw.media))


class DistinctFrames:
    """Encodes packed frames, equal ones only once. Features of recent frames are remembered across calls.

    Args:
        encoder: The frozen encoder, on its device.
        pooling: Pools the patches before they are remembered; it has no weights.
        max_bytes: Memory for the features of remembered frames.

    Attributes:
        num_encoded: Number of frames encoded so far.

    Raises:
        ValueError: The encoder has no weights, because it reads cached features.
    """

    def __init__(self, encoder: FrameEncoder, pooling: GridPooling | None = None, *, max_bytes: int = 1 << 30) -> None:
        weights = next(encoder.parameters(), None)
        if weights is None:
            raise ValueError(
                f"{type(encoder).__name__} has no weights, so there is nothing to cache; give a config with pixels"
            )
        self.encoder = encoder
        self.pooling = pooling
        self.max_bytes = max_bytes
        self.num_encoded = 0
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self._device = weights.device

    def __call__(self, frames: Tensor, frame_counts: Tensor) -> Tensor:
        """Encode packed frames ``[F, 3, H, W]`` to a matrix each, on the CPU, see ``cache_matrices``."""
        if self.encoder.window_frames != 1:
            return self._encode(frames, frame_counts)
        names = [hashlib.blake2b(frame.numpy().tobytes(), digest_size=16).digest() for frame in frames]
        new = {name: index for index, name in enumerate(names) if name not in self._known}
        if new:
            chosen = frames[torch.tensor(list(new.values()))]
            for name, features in zip(new, self._encode(chosen, torch.ones(len(new), dtype=torch.int64)), strict=True):
                self._known[name] = features.clone()
        joined = torch.stack([self._known[name] for name in names])
        for name in names:
            self._known.move_to_end(name)
        while len(self._known) * joined[0].nbytes > self.max_bytes:
            self._known.popitem(last=False)
        return joined

    def _encode(self, frames: Tensor, frame_counts: Tensor) -> Tensor:
        self.num_encoded += len(frames)
        features = self.encoder(frames.to(self._device), frame_counts)
        dtype = features.patches.dtype
        features = reduced_patches(features, None, self.pooling, torch.float32)  # as training pools them
        return cache_matrices(features._replace(patches=features.patches.to(dtype))).cpu()


def pooling_for_cache(module: VideoLanguageModule, dim: int) -> GridPooling | None:
    """The pooling of a model, if patches may be pooled before they are cached, and again in training.

    Args:
        module: The module of the training config.
        dim: Width of the encoder's patches.
    """
    if module.make_patch_pooling is None or module.make_projector is not None:
        return None
    pooling = module.make_patch_pooling(dim)
    return pooling if isinstance(pooling, GridPooling) else None


def encoder_of_cache(encode: DistinctFrames) -> dict[str, Any]:
    """Settings of the encoder that reads a cache, for a config."""
    encoder = encode.encoder
    num_patches = encoder.num_patches if encode.pooling is None else encode.pooling.grid**2
    options = {"dim": encoder.dim, "num_patches": num_patches}
    options |= {"saliency": True} if encoder.gives_saliency else {}
    options |= {"joint_dim": encoder.joint_dim} if encoder.joint_dim else {}
    return {"class_path": f"{CachedFeatures.__module__}.{CachedFeatures.__name__}", "init_args": options}


def cache_shard(
    shard: ShardIndex, out: Path, encode: DistinctFrames, media: MediaReader, *, num_workers: int, frames_per_call: int
) -> int:
    """Encode one shard.

    Args:
        shard: Shard of videos, images or text.
        out: Feature shard to write. It appears when it is complete.
        encode: The frozen encoder.
        media: Decoder, frame sampling and pixel transform.
        num_workers: Decoding processes.
        frames_per_call: Samples are joined until they have this many frames. It limits memory.

    Returns:
        Number of frames encoded.
    """
    reader = ShardReader([shard])
    samples = _DecodedSamples(reader, media)
    loader = DataLoader(samples, batch_size=None, num_workers=num_workers, collate_fn=_unchanged)
    num_frames = 0
    with ShardWriter(out.parent / f".{out.stem}", max_samples=sys.maxsize, max_bytes=sys.maxsize) as writer:
        for group in _groups(tqdm(loader, desc=shard.name, unit="sample", leave=False), frames_per_call):
            num_frames += _write_group(writer, group, encode)
    writer.paths[0].replace(out)
    return num_frames


def _unchanged(sample: _Decoded) -> _Decoded:
    """Replaces the loader's own conversion, which makes lists of tuples."""
    return sample


def _groups(samples: Iterator[_Decoded], frames_per_call: int) -> Iterator[list[_Decoded]]:
    group: list[_Decoded] = []
    num_frames = 0
    for sample in samples:
        group.append(sample)
        num_frames += sum(len(medium.frames) for medium in sample.media)
        if num_frames >= frames_per_call:
            yield group
            group, num_frames = [], 0
    if group:
        yield group


def _write_group(writer: ShardWriter, group: Sequence[_Decoded], encode: DistinctFrames) -> int:
    videos = [medium.frames for sample in group for medium in sample.media]
    counts = [len(video) for video in videos]
    encoded: Iterator[Tensor] = iter(())
    if videos:
        encoded = iter(encode(torch.cat(videos), torch.tensor(counts)).split(counts))
    for sample in group:
        record = sample.raw.record.to_json()
        facts = record.get("media", [record])  # of numbered media, or of the one
        features = []
        for medium, stated in zip(sample.media, facts, strict=False):
            stated["meta"]["num_frames"] = len(medium.frame_ms)
            features.append(save({"features": next(encoded).contiguous(), "frame_ms": medium.frame_ms}))
        if "media" in record:
            writer.write_several(sample.raw.key, record, [(data, "safetensors") for data in features])
        elif features:
            writer.write(sample.raw.key, record, features[0], "safetensors")
        else:
            writer.write(sample.raw.key, record)
    return sum(counts)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: Command line after the program's name; that of the process by default.
    """
    parser = argparse.ArgumentParser(description="Cache a frozen encoder's outputs as feature shards.")
    parser.add_argument("-c", "--config", action="append", required=True, help="training config with pixels")
    parser.add_argument("--shards", nargs="+", required=True, help="shards, folders, urls or patterns to encode")
    parser.add_argument("--out", type=Path, required=True, help="folder of the feature shards")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_option(parser, "--frames-per-call", type=int, default=256, help="frames joined for one call of the encoder")
    known, overrides = parser.parse_known_args(args)
    settings = [argument for path in known.config for argument in ("--config", path)]
    cli = VideoLanguageCLI(VideoLanguageModule, InstructionDataModule, args=[*settings, *overrides], run=False)
    data: InstructionDataModule = cli.datamodule
    if data.pixels.augmentation != Augmentation():
        raise ValueError("data.pixels.augmentation is on; cached features cannot be augmented; switch it off")
    if data.pixels.tiles is not None:
        raise ValueError(
            "data.pixels.tiles is set; cached features hold no tiles of pictures: train from pixels, or set "
            "data.pixels.tiles and model.picture_layout to null"
        )
    encoder = cli.model.make_encoder().to(known.device)
    media = MediaReader(data.sampling, PixelTransform(data.pixels, train=False), data.loading.decoding)
    known.out.mkdir(parents=True, exist_ok=True)
    pooling = pooling_for_cache(cli.model, encoder.dim)
    encode = DistinctFrames(encoder, pooling)
    settings_used = [str(cli.config.model.encoder), "" if pooling is None else str(cli.config.model.patch_pooling)]
    settings_used += [repr(data.sampling), repr(data.pixels), repr(data.loading.decoding)]
    num_frames = 0
    progress = tqdm(open_shards(known.shards, data.loading.cache).shards, desc="encoding shards", unit="shard")
    for shard in progress:
        target = known.out / shard.name
        made_from = hashlib.sha256(json.dumps([*settings_used, shard.fingerprint]).encode()).hexdigest()
        manifest = _read_manifest(known.out)
        if target.exists() and manifest.get(target.name) == made_from:
            continue
        num_frames += cache_shard(
            shard, target, encode, media, num_workers=data.loading.num_workers, frames_per_call=known.frames_per_call
        )
        _write_manifest(known.out, {**manifest, target.name: made_from})
        progress.set_postfix(frames=num_frames, encoded=encode.num_encoded)
    print(f"to train from this cache, set model.encoder to\n{json.dumps(encoder_of_cache(encode))}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "features.json"
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return manifest


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    unfinished = folder / ".features.json"
    unfinished.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder / "features.json")


if __name__ == "__main__":
    run_and_exit(main)
