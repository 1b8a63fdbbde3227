"""Models that show pictures in tiles compute what transformers' LLaVA-OneVision computes, from the pixels on."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionImageProcessor

from components.interfaces import VIDEO_PLACEHOLDER
from components.model import VideoLanguageModel
from components.pictures.tile_grid import PictureSize
from components.pictures.tile_layout import TileLayout
from datamodules.batch import EncodedConversation, Question, Sample, SampleMedia, collate
from datamodules.conversations import build_turns
from datamodules.media.picture_tiles import PictureTiles
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.shards.schema import VIDEO_MARK, Turn
from tests.components.tiny_onevision import (
    IMAGE_SIZE,
    IMAGE_TOKEN,
    PINPOINTS,
    VIDEO_TOKEN,
    build_from_parts,
    logits_of,
    make_onevision,
    pixel_values,
    random_frames,
    write_own_parts,
)

TRANSFORM = PixelTransform(PixelOptions(IMAGE_SIZE, "stretch", tiles=PictureTiles()), train=False)
SIZES = [(54, 54), (20, 200), (200, 30), (70, 90), (40, 37)]
LARGE = [(330, 320), (500, 600)]
"""Height and width: one tile, wide, tall, usual, small; of the large ones, the joined tiles are shrunk."""


class Pair(NamedTuple):
    """Our model and transformers' with the same weights."""

    ours: VideoLanguageModel
    theirs: LlavaOnevisionForConditionalGeneration


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    theirs = make_onevision(seed=8)
    folder = write_own_parts(theirs, tmp_path_factory.mktemp("parts"))
    layout = partial(TileLayout, tile_size=IMAGE_SIZE)
    plain = build_from_parts(folder)
    return Pair(build_from_parts(folder, picture_layout=layout(plain.language_model.dim)), theirs)


def draw(size: tuple[int, int], seed: int) -> Tensor:
    """A picture, uint8 ``[3, height, width]``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)


def sample(pair: Pair, media: Sequence[SampleMedia], question: str, answer: str) -> Sample:
    """One conversation that shows all of its media, as the dataset makes it."""
    marks = "\n".join([VIDEO_MARK] * len(media))
    turns = [Turn("user", f"{marks}\n{question}"), Turn("assistant", answer)]
    encoded = build_turns(turns, pair.ours.language_model.tokenizer)
    asked = Question("key", "id", "made", "any", question, answer, (), 1, {})
    conversation = EncodedConversation(encoded.input_ids, encoded.labels, asked, tuple(range(len(media))))
    return Sample("key", tuple(media), (conversation,))


def of_pictures(pair: Pair, pictures: Sequence[Tensor], question: str = "which colour ?") -> Sample:
    """A conversation about pictures, prepared by our data."""
    media = []
    for picture in pictures:
        size = PictureSize(*picture.shape[1:])
        frames = TRANSFORM.picture(picture[None], size, is_alone=len(pictures) == 1)
        media.append(SampleMedia(frames, torch.zeros(len(frames), dtype=torch.int64), size))
    return sample(pair, media, question, "red and blue")


def of_video(pair: Pair, frames: Tensor) -> Sample:
    """A conversation about a video."""
    return sample(pair, [SampleMedia(frames, torch.arange(len(frames)) * 1000)], "what is shown ?", "green")


def transformers_inputs(pair: Pair, one: Sample, pictures: Sequence[Tensor]) -> dict[str, Tensor]:
    """What transformers' model reads of pictures, prepared by transformers; it refuses a wrong number of marks."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    half = [0.5] * 3
    processor = LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS, image_mean=half, image_std=half)
    inputs = dict(processor([list(pictures)], return_tensors="pt"))
    counts = pair.ours.visual_tokens(collate([one])).mask.sum(dim=1).tolist()
    ids = with_marks(one.conversations[0].input_ids, counts, IMAGE_TOKEN)
    return {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def with_marks(ids: Tensor, counts: Sequence[int], token: int) -> Tensor:
    """The conversation with one mark for every visual token, ``[1, K]``."""
    numbers = iter(counts)
    pieces = [torch.full((next(numbers),), token) if each == VIDEO_PLACEHOLDER else each[None] for each in ids]
    return torch.cat(pieces)[None]


def compare(pair: Pair, pictures: Sequence[Tensor]) -> int:
    """Compare logits; give the number of visual tokens."""
    one = of_pictures(pair, pictures)
    inputs = transformers_inputs(pair, one, pictures)
    with torch.no_grad():
        expected = pair.theirs(**inputs).logits[0]
    [found] = logits_of(pair.ours, collate([one]))
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    return int((inputs["input_ids"] == IMAGE_TOKEN).sum())


@pytest.mark.parametrize("size", [*SIZES, *(pytest.param(size, marks=pytest.mark.slow) for size in LARGE)])
def test_logits_of_one_picture_are_those_of_transformers(pair: Pair, size: tuple[int, int]) -> None:
    assert compare(pair, [draw(size, seed=1)]) > 27 * 27


def test_logits_of_several_pictures_are_those_of_transformers(pair: Pair) -> None:
    pictures = [draw(size, seed) for seed, size in enumerate(SIZES[:4])]
    assert compare(pair, pictures) == len(pictures) * (27 * 27 + 1)


@pytest.mark.parametrize("sizes", [[(70, 90)], [(200, 30)], [(54, 54), (20, 200)]], ids=str)
def test_answers_about_pictures_are_those_of_transformers(pair: Pair, sizes: list[tuple[int, int]]) -> None:
    pictures = [draw(size, seed) for seed, size in enumerate(sizes)]
    one = of_pictures(pair, pictures)
    batch = collate([one])
    inputs = transformers_inputs(pair, one, pictures)
    num_answer = int((one.conversations[0].labels == -100).cumprod(0).sum()) - len(one.conversations[0].labels)
    prompt = {name: inputs[name][:, :num_answer] for name in ("input_ids", "attention_mask")}
    chat = pair.ours.language_model.chat
    [answer] = pair.ours.generate(batch, max_new_tokens=10)
    generated = pair.theirs.generate(
        **inputs | prompt, do_sample=False, max_new_tokens=10, eos_token_id=list(chat.stop_ids)
    )
    assert answer == chat.decode(generated[0, prompt["input_ids"].shape[1] :].tolist())
    assert answer


def test_a_batch_of_pictures_video_and_text_equals_its_samples_one_by_one(pair: Pair) -> None:
    video = random_frames(3, seed=5)
    samples = [
        of_pictures(pair, [draw((70, 90), seed=2)]),
        of_video(pair, video),
        sample(pair, [], "what is red ?", "a colour"),
        of_pictures(pair, [draw((40, 37), seed=3), draw((20, 200), seed=4)], "which is blue ?"),
        of_pictures(pair, [draw((100, 60), seed=6)]),
    ]
    together = logits_of(pair.ours, collate(samples))
    for one, logits in zip(samples, together, strict=True):
        [alone] = logits_of(pair.ours, collate([one]))
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=0)
    ids = with_marks(samples[1].conversations[0].input_ids, [3 * 14 * 14 + 1], VIDEO_TOKEN)
    with torch.no_grad():
        expected = pair.theirs(input_ids=ids, pixel_values_videos=pixel_values(video)[None]).logits[0]
    torch.testing.assert_close(together[1], expected, atol=1e-5, rtol=0)


def test_two_conversations_about_one_picture_see_the_same_tiles(pair: Pair) -> None:
    one, other = (of_pictures(pair, [draw((70, 90), seed=2)], question) for question in ("which ?", "how many ?"))
    both = one._replace(conversations=one.conversations + other.conversations)
    together = logits_of(pair.ours, collate([both]))
    for logits, alone in zip(together, (one, other), strict=True):
        torch.testing.assert_close(logits, logits_of(pair.ours, collate([alone]))[0], atol=1e-5, rtol=0)
