"""Draws data_flow.svg, the way of a video from a shard to the loss: ``python docs/images/draw_data_flow.py``.

Plain SVG, written without a library. ``tests/test_pages.py`` checks that the committed file is what this script draws,
and that every file named in the picture exists.
"""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT = 1340, 700
SANS = "font-family='Helvetica, Arial, sans-serif'"
MONO = "font-family='Menlo, Consolas, monospace'"
DATA, FROZEN, TRAINED = "#eef2f7", "#dbeafe", "#fde9cf"
INK, LINE = "#1f2937", "#64748b"
PATH_SIZE = 9.2
SEGMENT_COLOURS = ("#93c5fd", "#fca5a5", "#86efac")


class Box(NamedTuple):
    """A step of the data flow.

    Attributes:
        title: What the step is.
        lines: What it does, one string a line.
        result: Shape of what it gives.
        files: Files that do it, written below the box.
        left: Left edge.
        top: Upper edge.
        width: Width; the height follows from the lines.
        colour: ``DATA``, ``FROZEN`` or ``TRAINED``.
    """

    title: str
    lines: tuple[str, ...]
    result: str
    files: tuple[str, ...]
    left: int
    top: int
    width: int
    colour: str

    @property
    def height(self) -> int:
        """Room for all lines."""
        return 66 + 17 * len(self.lines)


UPPER = (
    Box(
        "Shard",
        ("a tar file: videos, pictures,", "and questions as JSON"),
        "bytes + conversations",
        ("datamodules/shards/shard_reader.py",),
        20,
        54,
        200,
        DATA,
    ),
    Box(
        "Decode",
        ("a few frames a second,", "resized; text to token ids"),
        "uint8 [T, 3, H, W]",
        ("datamodules/media/media_reader.py",),
        240,
        54,
        200,
        DATA,
    ),
    Box(
        "Batch",
        ("frames of all videos one", "after the other, no padding"),
        "uint8 [F, 3, H, W]",
        ("datamodules/batch.py",),
        460,
        54,
        200,
        DATA,
    ),
    Box(
        "Encoder (frozen)",
        ("a vision transformer: class", "vector and patches a frame"),
        "[F, D] and [F, N, D]",
        ("components/encoders/hugging_face.py",),
        680,
        54,
        200,
        FROZEN,
    ),
    Box(
        "SceneTilling",
        ("segmenter: cuts where class", "vectors begin to differ"),
        "segment of every frame",
        ("components/segmenters/scene_tilling.py",),
        900,
        54,
        200,
        FROZEN,
    ),
    Box(
        "Projector, pooling",
        ("may be left out: another", "width, fewer patches a frame"),
        "[F, N, D]",
        ("components/projectors/", "components/pooling/"),
        1120,
        54,
        200,
        TRAINED,
    ),
)
STEP_LEFTS = (170, 396, 622)
STEP_WIDTH = 186
MEMORY = tuple(
    Box(
        f"Segment {name}",
        ("memory tokens and patches", "attend to each other"),
        "memory [M, width]",
        (),
        left,
        372,
        STEP_WIDTH,
        TRAINED,
    )
    for name, left in zip("123", STEP_LEFTS, strict=True)
)
FRAMES = tuple(
    Box(f"Segment {name}", ("store some of its frames",), "[frames, N, D]", (), left, 524, STEP_WIDTH, TRAINED)
    for name, left in zip("123", STEP_LEFTS, strict=True)
)
PROMPT = Box(
    "Visual prompt",
    (
        "each reader gives a stream of",
        "visual tokens; they are joined",
        "with words between them:",
        "A summary:<memory>",
        "Some frames:<frames>",
    ),
    "visual tokens [Q, E]",
    ("components/visual_prompt.py",),
    872,
    418,
    206,
    TRAINED,
)
LANGUAGE = Box(
    "Language model",
    ("reads visual tokens where", "<video> is, and the text;", "trained in full or by LoRA"),
    "text [C, K, E]",
    ("components/language/splice.py", "components/language/causal.py"),
    1124,
    435,
    196,
    TRAINED,
)
OUTCOMES = (
    ("Training: loss of the answer", "components/losses.py", 890, 646),
    ("Otherwise: the answer", "evaluate.py", 1124, 646),
)


def escape(text: str) -> str:
    """Text for XML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def text(left: float, top: float, words: str, size: float, *, mono: bool = False, style: str = "") -> str:
    """One line of text whose baseline is ``top``."""
    family = MONO if mono else SANS
    return f"<text x='{left}' y='{top}' font-size='{size}' {family} fill='{INK}' {style}>{escape(words)}</text>"


def arrow(*points: tuple[float, float]) -> str:
    """A line through the points that ends in an arrow head."""
    way = " ".join(f"{x},{y}" for x, y in points)
    return f"<polyline points='{way}' fill='none' stroke='{LINE}' stroke-width='1.8' marker-end='url(#head)'/>"


def draw_box(box: Box) -> list[str]:
    """A rounded box with its lines."""
    inside = box.left + 12
    parts = [
        f"<rect x='{box.left}' y='{box.top}' width='{box.width}' height='{box.height}' rx='8' fill='{box.colour}' "
        f"stroke='{LINE}'/>",
        text(inside, box.top + 23, box.title, 14, style="font-weight='bold'"),
    ]
    parts += [text(inside, box.top + 42 + 17 * number, line, 11.8) for number, line in enumerate(box.lines)]
    below = box.top + 42 + 17 * len(box.lines)
    parts.append(text(inside, below, box.result, 11, mono=True))
    return parts + draw_files(box)


def draw_files(box: Box) -> list[str]:
    """The names of a box's files, below it."""
    bottom = box.top + box.height
    return [
        text(box.left, bottom + 16 + 14 * number, file, PATH_SIZE, mono=True) for number, file in enumerate(box.files)
    ]


def draw_film() -> list[str]:
    """The frames as small squares; frames of one segment have one colour and stand above their steps."""
    parts = [text(20, 214, "The frames of one video, cut into segments (here three)", 12.5)]
    for step, colour, count in zip(MEMORY, SEGMENT_COLOURS, (5, 3, 4), strict=True):
        left = step.left + (step.width - 30 * count) / 2
        for number in range(count):
            parts.append(
                f"<rect x='{left + 30 * number + 2}' y='258' width='26' height='26' rx='3' fill='{colour}' "
                f"stroke='{LINE}'/>"
            )
        middle = step.left + step.width / 2
        parts.append(arrow((middle, 290), (middle, step.top - 4)))
    notes = (
        "each reader reads all frames of a segment, or some: components/selection/",
        "a reducer may leave fewer of their patches: components/reducers/",
    )
    parts += [text(20, 230 + 14 * number, note, PATH_SIZE, mono=True) for number, note in enumerate(notes)]
    parts.append(text(20, 330, "Readers", 14, style="font-weight='bold'"))
    parts.append(text(20, 348, "one or more, here two", 11.8))
    parts.append(text(20, 364, "of the same segments", 11.8))
    return parts


def draw_reader(name: str, lines: tuple[str, ...], steps: tuple[Box, ...], notes: tuple[str, ...]) -> list[str]:
    """A reader's name, its steps, the state between them, and the arrow to the visual prompt."""
    middle = steps[0].top + steps[0].height / 2
    parts = [text(20, middle - 12, name, 14, style="font-weight='bold'")]
    parts += [text(20, middle + 6 + 16 * number, line, 11.8) for number, line in enumerate(lines)]
    parts += [part for step in steps for part in draw_box(step)]
    for one, other in pairwise(steps):
        parts.append(arrow((one.left + one.width, middle), (other.left - 2, middle)))
        parts.append(text(one.left + one.width + 4, middle - 8, "state", 11, mono=True))
    last = steps[-1]
    inlet = min(max(middle, PROMPT.top + 20), PROMPT.top + PROMPT.height - 20)
    right = last.left + last.width
    parts.append(arrow((right, middle), (right + 38, middle), (right + 38, inlet), (PROMPT.left - 2, inlet)))
    parts.append(text(right + 4, middle - 8, "read", 11, mono=True))
    below = steps[0].top + steps[0].height
    parts += [
        text(steps[0].left, below + 16 + 14 * number, note, PATH_SIZE, mono=True) for number, note in enumerate(notes)
    ]
    return parts


def draw_readers() -> list[str]:
    """Two readers with names, the visual prompt that joins what they give, and the language model."""
    memory_notes = (
        "the same module at every step: components/bridges/recurrent.py",
        "a gate decides whether the segment is remembered: components/bridges/layers/selective_update.py",
    )
    parts = draw_reader("memory", ("a memory bridge",), MEMORY, memory_notes)
    parts += draw_reader("frames", ("a store of frames",), FRAMES, ("components/readers/fine_frames.py",))
    parts += [*draw_box(PROMPT), *draw_box(LANGUAGE)]
    middle = LANGUAGE.top + LANGUAGE.height / 2
    parts.append(arrow((PROMPT.left + PROMPT.width, middle), (LANGUAGE.left - 2, middle)))
    return parts


def draw_outcomes() -> list[str]:
    """What the language model gives, the text that it reads, and the legend."""
    parts = []
    for title, file, left, top in OUTCOMES:
        parts.append(text(left, top, title, 12, style="font-weight='bold'"))
        parts.append(text(left, top + 16, file, PATH_SIZE, mono=True))
    bottom, right = LANGUAGE.top + LANGUAGE.height, LANGUAGE.left + 182
    parts.append(arrow((right, bottom), (right, 628)))
    parts.append(arrow((right, 612), (960, 612), (960, 628)))
    parts.append(text(1064, 372, "Question and answer as token ids [C, K]", 12.5))
    parts.append(arrow((LANGUAGE.left + 60, 380), (LANGUAGE.left + 60, LANGUAGE.top - 2)))
    for left, colour, name in ((20, DATA, "data loading"), (140, FROZEN, "not trained"), (250, TRAINED, "trained")):
        parts.append(f"<rect x='{left}' y='662' width='16' height='16' rx='3' fill='{colour}' stroke='{LINE}'/>")
        parts.append(text(left + 22, 675, name, 12))
    parts.append(text(340, 675, "components/model.py runs all steps from the encoder on", 12))
    return parts


def draw() -> str:
    """The picture as SVG."""
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'>",
        "<title>From a shard to the loss</title>",
        "<defs><marker id='head' markerUnits='userSpaceOnUse' markerWidth='9' markerHeight='8' refX='8' "
        "refY='4' orient='auto'>"
        f"<path d='M0,0 L9,4 L0,8 z' fill='{LINE}'/></marker></defs>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
        text(20, 34, "From a shard to the loss", 18, style="font-weight='bold'"),
    ]
    for box in UPPER:
        parts += draw_box(box)
    for one, other in pairwise(UPPER):
        middle = one.top + one.height / 2
        parts.append(arrow((one.left + one.width, middle), (other.left - 2, middle)))
    corner, last = UPPER[-1].left + UPPER[-1].width / 2, MEMORY[-1].left + MEMORY[-1].width
    parts.append(arrow((corner, UPPER[-1].top + UPPER[-1].height + 38), (corner, 271), (last + 12, 271)))
    parts += [*draw_film(), *draw_readers(), *draw_outcomes(), "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("data_flow.svg").write_text(draw(), encoding="utf-8")
