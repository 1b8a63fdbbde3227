"""The pipelines to compare: data loaders whose batches get a stamp in the worker that makes them."""

import io
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import webdataset
from torch.utils.data import DataLoader, Dataset

from benchmarks.data.material import Material
from benchmarks.data.stamps import Stamped, StampedCollate
from datamodules.batch import Batch, EncodedConversation, Question, Sample, SampleMedia, collate
from datamodules.conversations import build_turns, load_tokenizer
from datamodules.instruction import InstructionDataModule
from datamodules.loader import Loading, Source
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.media.decoding_process import decode_media
from datamodules.media.frame_sampling import FrameSampling, sample_frames
from datamodules.media.media_reader import MediaReader
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.order.training_order import TrainingOrder
from datamodules.shards.member_names import MediaCount
from datamodules.shards.schema import Conversation, parse_record
from datamodules.shards.shard_names import find_shards
from datamodules.shards.shard_reader import RawSample, open_shards

_FRAME_SIDE = 224  # pixels
_SHUFFLED = 100  # samples that webdataset shuffles together


class Workload(NamedTuple):
    """What every pipeline reads."""

    material: Material
    workers: int
    batch_size: int  # videos
    batches: int


class _Clips(Dataset[None]):
    """Decodes clips and drops the frames. The positions of the clips were read before."""

    def __init__(self, material: Material, decode: Callable[[RawSample], Any]) -> None:
        reader = open_shards(material.shards)
        self._clips = [reader.read(number) for number in range(len(reader))]
        self._decode = decode

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> None:
        self._decode(self._clips[number % len(self._clips)])


def decode_in_worker(workload: Workload) -> Iterable[Stamped]:
    """Decode in the worker."""
    media = _media_reader()
    size = media.transform.frame_size(media.decoding.max_pixels)

    def decode(raw: RawSample) -> None:
        (clip,) = raw.media
        with clip.content.open() as file:
            sample_frames(file, media.sampling, size=size, where=clip.where)

    return _decoding_loader(workload, decode)


def decode_in_server(workload: Workload) -> Iterable[Stamped]:
    """Decode in a process that can be killed, and send the frames to the worker."""
    media = _media_reader()
    size = media.transform.frame_size(media.decoding.max_pixels)

    def decode(raw: RawSample) -> None:
        (clip,) = raw.media
        decode_media(MediaRequest(clip.content, False, media.sampling, size, clip.where), media.decoding)

    return _decoding_loader(workload, decode)


def decode_and_resize(workload: Workload) -> Iterable[Stamped]:
    """The same, and resize the frames for the encoder."""
    media = _media_reader()
    return _decoding_loader(workload, lambda raw: media.read(raw.media[0], (0, 0)))


def datamodule(workload: Workload, conversations_per_video: int | None = None) -> Iterable[Stamped]:
    """The complete ``InstructionDataModule``."""
    data = InstructionDataModule(
        workload.material.tokenizer,
        [Source(workload.material.shards)],
        pixels=PixelOptions(_FRAME_SIDE),
        order=TrainingOrder(conversations_per_video=conversations_per_video),
        loading=Loading(batch_size=workload.batch_size, num_workers=workload.workers),
        num_steps=workload.batches,
    )
    loader: DataLoader[Any] = data.train_dataloader()
    loader.collate_fn = StampedCollate(collate, _num_conversations)
    return loader


def decode_every_question(workload: Workload) -> Iterable[Stamped]:
    """The datamodule with one conversation a decoded video."""
    return datamodule(workload, conversations_per_video=1)


def webdataset_pipeline(workload: Workload) -> Iterable[Stamped]:
    """``webdataset`` reads, shuffles and batches; decoder, transform, chat template and collate are ours."""
    shards = find_shards(workload.material.shards)
    stages = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).repeat().shuffle(_SHUFFLED)
    stages = stages.map(WebDatasetEncoding(workload.material.tokenizer))
    stages = stages.batched(workload.batch_size, collation_fn=StampedCollate(collate, _num_conversations))
    loader: Iterable[Stamped] = webdataset.WebLoader(stages, batch_size=None, num_workers=workload.workers)
    return loader


class WebDatasetEncoding:
    """From ``webdataset``'s sample of bytes to frames and token ids.

    Args:
        tokenizer: Folder of the tokenizer.
    """

    def __init__(self, tokenizer: str) -> None:
        self._tokenizer = load_tokenizer(tokenizer)
        self._media = _media_reader()
        self._max_length = Loading().max_length

    def __call__(self, members: dict[str, Any]) -> Sample:
        """Decode, transform and encode.

        Args:
            members: Bytes by ending, and ``__key__``.
        """
        record = parse_record(members["json"], where=members["__key__"], media=MediaCount(1))
        size = self._media.transform.frame_size(self._media.decoding.max_pixels)
        decoded = sample_frames(io.BytesIO(members["mp4"]), self._media.sampling, size=size)
        pixels = torch.from_numpy(decoded.pixels).permute(0, 3, 1, 2)  # [T, 3, H, W]
        frames = self._media.transform(pixels, (0, 0))
        conversations = tuple(self._encode(item, members["__key__"]) for item in record.conversations)
        return Sample(members["__key__"], (SampleMedia(frames, torch.from_numpy(decoded.frame_ms)),), conversations)

    def _encode(self, conversation: Conversation, key: str) -> EncodedConversation:
        encoded = build_turns(conversation.turns, self._tokenizer, max_length=self._max_length)
        question = Question(key, conversation.id, "", "", "", "", (), 0, {})
        return EncodedConversation(encoded.input_ids, encoded.labels, question, conversation.media)


PIPELINES: dict[str, Callable[[Workload], Iterable[Stamped]]] = {
    "decoding in the workers": decode_in_worker,
    "decoding in their servers": decode_in_server,
    "decoding and resizing": decode_and_resize,
    "datamodule": datamodule,
    "one decode a question": decode_every_question,
    "webdataset": webdataset_pipeline,
}
"""By name, as the table has them."""


def _media_reader() -> MediaReader:
    """A reader with the datamodule's default settings."""
    return MediaReader(FrameSampling(), PixelTransform(PixelOptions(_FRAME_SIDE), train=True), Decoding())


def _decoding_loader(workload: Workload, decode: Callable[[RawSample], Any]) -> DataLoader[Any]:
    clips = _Clips(workload.material, decode)
    return DataLoader(
        clips,
        workload.batch_size,
        sampler=range(workload.batches * workload.batch_size),
        num_workers=workload.workers,
        collate_fn=StampedCollate(list, lambda _: 0),
    )


def _num_conversations(batch: Batch) -> int:
    return len(batch.questions)
