"""A medium as HTML: its frames, grouped by scenes, and the curve of similarity."""

from itertools import groupby

from datamodules.errors import count_of
from membridge.sample_page.html_text import escaped, message, size
from membridge.sample_page.shown_sample import ShownFrame, ShownMedium
from membridge.video_time import to_clock

_MOST_POINTS = 600
_MOST_SCENES = 100  # without frames
_WIDTH, _HEIGHT = 1000, 60
_NUM_COLOURS = 6  # of scenes, in the style sheet


def medium_html(medium: ShownMedium, number: int | None) -> str:
    """A medium.

    Args:
        medium: The medium.
        number: Its number among several; None if it is the only one.
    """
    title = f".{medium.name}" if number is None else f"medium {number}: {medium.name.partition('.')[2]}"
    head = f'<h3>{escaped(title)} <span class="facts">{escaped(", ".join(_facts(medium)))}</span></h3>'
    wrong = "" if medium.problem is None else problem_html(medium.problem.kind, medium.problem.reason)
    scenes = [(scene, list(of_it)) for scene, of_it in groupby(medium.frames, _scene_of)]
    if not scenes:  # cached features have scenes, and no pixels
        scenes = [(scene, []) for scene in range(min(len(medium.scenes), _MOST_SCENES))]
    strip = "".join(_scene_html(medium, scene, frames) for scene, frames in scenes)
    frames = f'<div class="strip">{strip}</div>' if strip else ""
    return f'<section class="medium">{head}{wrong}{frames}{_curve(medium)}</section>'


def problem_html(kind: str, reason: str) -> str:
    """What is wrong, as a line that stands out."""
    return f'<p class="problem"><b>{escaped(kind)}</b> <span dir="auto">{message(reason)}</span></p>'


def _facts(medium: ShownMedium) -> list[str]:
    facts = [size(medium.num_bytes)]
    start, end = medium.span
    if start is not None or end is not None:
        until = "the end" if end is None else to_clock(end)
        facts.append(f"used from {to_clock(start or 0)} to {until}")
    if medium.num_frames:
        facts.append(count_of(medium.num_frames, "frame"))
    if medium.frames and len(medium.frames) < medium.num_frames:
        facts.append(f"{len(medium.frames)} of them shown")
    if medium.scenes:
        facts.append(count_of(len(medium.scenes), "scene"))
    return facts


def _scene_of(frame: ShownFrame) -> int:
    return frame.scene


def _scene_html(medium: ShownMedium, number: int, frames: list[ShownFrame]) -> str:
    if medium.num_frames == 1:
        return f'<div class="scene single"><figure><img src="{frames[0].url}" alt="picture"></figure></div>'
    pictures = "".join(
        f'<figure><img src="{frame.url}" alt="frame at {to_clock(frame.time_ms)}">'
        f"<figcaption>{to_clock(frame.time_ms)}</figcaption></figure>"
        for frame in frames
    )
    if not medium.scenes:
        return f'<div class="scene">{pictures}</div>'
    scene = medium.scenes[number]
    title = f"scene {number + 1}: {to_clock(scene.start_ms)} to {to_clock(scene.end_ms)}"
    return (
        f'<div class="scene cut c{number % _NUM_COLOURS}"><div class="pictures">{pictures}</div>'
        f'<div class="times">{title}, {count_of(scene.num_frames, "frame")}</div></div>'
    )


def _curve(medium: ShownMedium) -> str:
    """Similarity of neighbouring frames over the frames, with a line at every cut."""
    values = medium.similarity
    if len(values) < 2:
        return ""
    lowest, highest = min(values), max(values)
    step = max(1, -(-len(values) // _MOST_POINTS))
    scale = _HEIGHT / max(highest - lowest, 1e-6)
    digits = 2 if highest - lowest >= 0.02 else 4
    points = " ".join(
        f"{_WIDTH * (first + 0.5) / len(values):.1f},{(highest - min(values[first : first + step])) * scale:.1f}"
        for first in range(0, len(values), step)
    )
    ends, total = [], 0
    for scene in medium.scenes[:-1]:
        total += scene.num_frames
        ends.append(_WIDTH * (total - 0.5) / len(values))
    lines = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}"/>' for x in ends[:_MOST_POINTS])
    return (
        f'<div class="curve"><svg viewBox="0 -3 {_WIDTH} {_HEIGHT + 6}" preserveAspectRatio="none">{lines}'
        f'<polyline points="{points}"/></svg><div class="scale"><span>{highest:.{digits}f}</span>'
        f"<span>{lowest:.{digits}f}</span></div></div>"
        '<div class="legend">similarity of neighbouring frames; dashed: cuts</div>'
    )
