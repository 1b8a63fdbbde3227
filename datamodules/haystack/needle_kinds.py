"""The kinds of needles: what they look like on a frame, what they can show, and how questions name them."""

import functools
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datamodules.haystack.drawn_shapes import COLOURS, SHAPES, draw

NeedleKind = Literal["caption", "picture", "clip", "shape"]
"""``caption``: a text over the lower part of the frame. ``picture``: a shape on a plain background replaces the frame.
``clip``: the same, and the shape moves. ``shape``: a coloured shape somewhere on the frame, as in the quickstart."""

_WORDS = (
    *("RIVER", "TIGER", "LEMON", "CHAIR", "CLOUD", "PIANO", "BREAD", "SNAKE", "TRAIN", "HONEY", "GLASS", "ROBOT"),
    *("ONION", "SHEEP", "PAPER", "WHEEL", "CANDY", "EAGLE", "MOUSE", "STONE", "HOTEL", "KNIFE", "OCEAN", "PLANT"),
)
_PLAIN_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple")  # that differ from both backgrounds
_DRAWN = tuple(f"{colour} {shape}" for colour in _PLAIN_COLOURS for shape in SHAPES)
_BACKGROUNDS = {False: (245, 245, 245), True: (15, 15, 15)}  # of pictures and clips: a needle's, a distractor's
_CAPTIONS = {False: "The secret word is", True: "The usual word is"}
_BAND = 0.4  # height of a caption's band, as a share of the frame's
_PICTURE_SIZE = 0.7  # side of the shape in a picture, as a share of the frame's
_CLIP_SIZE = 0.5
_SHAPE_SIZES = (0.38, 0.50)
_LARGEST_TURN = 12.0  # degrees


class KindWords(NamedTuple):
    """What needles of a kind can show, and the questions about them."""

    labels: tuple[str, ...]
    which_question: str
    order_question: str
    count_question: str
    has_distractors: bool = True


KINDS: dict[NeedleKind, KindWords] = {
    "caption": KindWords(
        _WORDS,
        "Which secret word did the video show?",
        "In which order did the video show the secret words?",
        "How many secret words did the video show?",
    ),
    "picture": KindWords(
        _DRAWN,
        "Which picture with a white background did the video show?",
        "In which order did the video show the pictures with a white background?",
        "How many pictures with a white background did the video show?",
    ),
    "clip": KindWords(
        _DRAWN,
        "What moved across a white background in the video?",
        "In which order did these things move across a white background in the video?",
        "How many things moved across a white background in the video?",
    ),
    "shape": KindWords(
        tuple(COLOURS),
        "Which colour was shown?",
        "In which order were these colours shown?",
        "How many shapes were shown?",
        has_distractors=False,
    ),
}


class DrawnNeedle(NamedTuple):
    """What one needle looks like."""

    kind: NeedleKind
    label: str
    is_distractor: bool = False
    seed: int = 0  # of size and position of a shape on the frame


def paint_needle(frame: NDArray[np.uint8], needle: DrawnNeedle, progress: float = 0.0) -> NDArray[np.uint8]:
    """Draw a needle.

    Args:
        frame: Square RGB frame ``[H, H, 3]``; not changed.
        needle: The needle.
        progress: Share of its time that has passed; a clip moves with it.

    Returns:
        The frame with the needle.
    """
    side = len(frame)
    if needle.kind == "caption":
        painted = frame.copy()
        band = _caption(needle.label, needle.is_distractor, side)
        painted[side - len(band) :] = band
        return painted
    if needle.kind == "shape":
        return _on_frame(frame, needle)
    share = _PICTURE_SIZE if needle.kind == "picture" else _CLIP_SIZE
    size = max(1, round(share * side))
    left = (side - size) // 2 if needle.kind == "picture" else round(progress * (side - size))
    colour, shape = needle.label.split()
    plain = np.full_like(frame, _BACKGROUNDS[needle.is_distractor])
    return _pasted(plain, _sprite(shape, colour, size), (side - size) // 2, left)


@functools.lru_cache(maxsize=64)
def _caption(word: str, is_distractor: bool, side: int) -> NDArray[np.uint8]:
    """White text on a black band ``[h, side, 3]``."""
    height = max(1, round(_BAND * side))
    band = Image.new("RGB", (side, height))
    pen = ImageDraw.Draw(band)
    for row, (text, share) in enumerate(((_CAPTIONS[is_distractor], 0.36), (word, 0.56))):
        font = _font(text, side, round(share * height))
        pen.text((side / 2, (0.22 + 0.48 * row) * height), text, fill="white", font=font, anchor="mm")
    return np.asarray(band)


def _font(text: str, width: int, height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font in which a text is at most so wide and so high."""
    font = ImageFont.load_default(max(4, height))
    length = font.getlength(text)
    return font if length <= 0.94 * width else ImageFont.load_default(max(4, height * 0.94 * width / length))


def _on_frame(frame: NDArray[np.uint8], needle: DrawnNeedle) -> NDArray[np.uint8]:
    random = np.random.default_rng(needle.seed)
    side = len(frame)
    size = max(1, round(side * random.uniform(*_SHAPE_SIZES)))
    top, left = (int(random.integers(side - size, endpoint=True)) for _ in range(2))
    shape = SHAPES[random.integers(len(SHAPES))]
    degrees = float(random.uniform(-_LARGEST_TURN, _LARGEST_TURN))
    return _pasted(frame.copy(), _sprite(shape, needle.label, size, degrees), top, left)


@functools.lru_cache(maxsize=64)
def _sprite(shape: str, colour: str, size: int, degrees: float = 0.0) -> NDArray[np.uint8]:
    return draw(shape, COLOURS[colour], size, degrees)


def _pasted(frame: NDArray[np.uint8], sprite: NDArray[np.uint8], top: int, left: int) -> NDArray[np.uint8]:
    """Put an RGBA picture on a frame, which is changed."""
    area = frame[top : top + len(sprite), left : left + len(sprite)]
    alpha = sprite[..., 3:].astype(np.float32) / 255
    area[:] = np.rint(alpha * sprite[..., :3] + (1 - alpha) * area).astype(np.uint8)
    return frame
