"""Draws the scenes of a video as HTML: a thumbnail a scene, and the similarity of neighbouring frames under them."""

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from apps.demo.demo_session import Caption
from apps.demo.webcam import Webcam
from membridge.opened_medium import OpenedMedium, Scene

_MOST_CARDS = 120
_THUMBNAIL = (240, 160)  # pixels
_WIDTH, _HEIGHT, _BAND = 1000.0, 150.0, 14.0
_MARGIN = 10.0
_MOST_POINTS = 1000
_SMALLEST_RANGE = 0.05  # of similarities, so that noise does not fill the height
_MARKS = (0.0, 0.25, 0.5, 0.75, 1.0)


class StripVideo(NamedTuple):
    """What is drawn of a video."""

    scenes: Sequence[Scene]
    pictures: Sequence[Tensor]  # of the first scenes, uint8 [3, H, W]
    frame_ms: Sequence[int]
    similarity: Sequence[float]  # of neighbouring frames
    attention: Sequence[float] | None = None  # how much was attended to each scene

    @classmethod
    def of_file(cls, medium: OpenedMedium, attention: Sequence[float] | None = None) -> "StripVideo":
        """A video that was read completely."""
        first, pictures = 0, []
        for scene in medium.scenes[:_MOST_CARDS]:
            pictures.append(medium.frames[first + scene.num_frames // 2])
            first += scene.num_frames
        return cls(medium.scenes, pictures, medium.frame_ms, medium.similarity, attention)

    @classmethod
    def of_webcam(cls, webcam: Webcam) -> "StripVideo":
        """A webcam's video so far."""
        return cls(webcam.scenes, webcam.pictures, webcam.video.frame_ms, webcam.video.similarity)


def scenes_html(video: StripVideo | None) -> str:
    """The scenes as a row of cards, and the curve under it; None for no video."""
    if video is None or not video.frame_ms:
        return '<h2>Scenes</h2><p class="empty">They appear when a video is read.</p>'
    cards = "".join(_card(video, number) for number in range(min(len(video.pictures), _MOST_CARDS)))
    left_out = len(video.scenes) - min(len(video.pictures), _MOST_CARDS)
    note = f'<div class="note">and {left_out} more scenes</div>' if left_out > 0 else ""
    strip = f'<div class="scenes">{cards}{note}</div>' if cards else ""
    return f"<h2>Scenes</h2>{_legend(video)}{strip}{_curve(video)}"


def captions_html(captions: Sequence[Caption], *, is_working: bool = False) -> str:
    """The captions with their times, the newest last.

    Args:
        captions: In the order of time.
        is_working: Whether more may come.
    """
    rows = [
        f'<li data-start="{each.start_ms}" data-end="{each.end_ms}"><time>{_span(each)}</time>'
        f"<span>{html.escape(each.text) or '(no words)'}</span></li>"
        for each in captions
    ]
    if is_working:
        rows.append('<li class="working"><time></time><span>…</span></li>')
    shown = f'<ol class="captions">{"".join(rows)}</ol>' if rows else '<p class="empty">One for each scene.</p>'
    return f"<h2>Captions</h2>{shown}"


def clock(milliseconds: int) -> str:
    """A time as ``1:05`` or ``1:02:03``."""
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _card(video: StripVideo, number: int) -> str:
    scene = video.scenes[number]
    bars = "" if scene.admitted is None else _bar("admitted", scene.admitted, scene.admitted)
    if video.attention is not None:
        share = video.attention[number]
        bars += _bar("attended", share, share / (max(video.attention) or 1.0))
    kept = " kept" if _is_admitted(scene) else ""
    return (
        f'<figure class="scene{kept}" data-start="{scene.start_ms}" data-end="{scene.end_ms}">'
        f'<img src="{_data_url(video.pictures[number])}" alt="scene {number + 1}"/>'
        f"<figcaption><b>{number + 1}</b> {_span(scene)}</figcaption>{bars}</figure>"
    )


def _span(part: Scene | Caption) -> str:
    return f"{clock(part.start_ms)} \N{EN DASH} {clock(part.end_ms)}"


def _bar(name: str, share: float, length: float) -> str:
    return f'<div class="bar {name}" title="{name} {share:.0%}"><i style="width:{length:.0%}"></i></div>'


def _is_admitted(scene: Scene) -> bool:
    return scene.admitted is not None and scene.admitted >= 0.5


def _legend(video: StripVideo) -> str:
    parts = [f"<b>{_count(len(video.scenes), 'scene')}</b> of {_count(len(video.frame_ms), 'frame')}"]
    if any(scene.admitted is not None for scene in video.scenes):
        held = sum(map(_is_admitted, video.scenes))
        parts.append(f'<i class="dot admitted"></i>admitted to the memory: {held}')
    if video.attention is not None:
        parts.append('<i class="dot attended"></i>attended to (full bar: the most)')
    return f'<div class="legend">{"".join(f"<span>{part}</span>" for part in parts)}</div>'


def _curve(video: StripVideo) -> str:
    """The similarity over time under a band of the scenes; nothing for a single frame."""
    times = np.asarray(video.frame_ms[1 : len(video.similarity) + 1], dtype=float)
    values = np.asarray(video.similarity)
    if len(values) < 2:
        return ""
    end = max(float(video.frame_ms[-1]), 1.0)
    top = max(float(values.max()), 1.0)
    bottom = min(float(values.min()), top - _SMALLEST_RANGE)
    step = -(-len(values) // _MOST_POINTS)
    parts = [slice(first, first + step) for first in range(0, len(values), step)]
    lowest = [part.start + int(values[part].argmin()) for part in parts]  # where scenes change it must stay visible
    lower = _HEIGHT - _MARGIN
    height = lower - _BAND - _MARGIN
    line = " ".join(
        f"{times[at] / end * _WIDTH:.1f},{lower - (values[at] - bottom) / (top - bottom) * height:.1f}" for at in lowest
    )
    marks = "".join(f'<span style="left:{share:.0%}">{clock(round(share * end))}</span>' for share in _MARKS)
    return (
        '<div class="curve"><div class="curve-title"><span>Similarity of neighbouring frames</span>'
        f"<span>{bottom:.2f} to {top:.2f}</span></div>"
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="similarity of neighbouring frames">{_scene_band(video.scenes, end)}'
        f'<polyline points="{line}" class="similarity"/></svg><div class="times">{marks}</div></div>'
    )


def _scene_band(scenes: Sequence[Scene], end: float) -> str:
    """A block for each scene at the top, and a line down where the next one begins."""
    shapes = []
    for number, scene in enumerate(scenes):
        following = scenes[number + 1].start_ms if number + 1 < len(scenes) else scene.end_ms
        left, right = scene.start_ms / end * _WIDTH, following / end * _WIDTH
        name = "block admitted" if _is_admitted(scene) else "block"
        shapes.append(f'<rect x="{left:.1f}" y="0" width="{right - left:.1f}" height="{_BAND:g}" class="{name}"/>')
        if number:
            shapes.append(f'<line x1="{left:.1f}" x2="{left:.1f}" y1="0" y2="{_HEIGHT:g}" class="cut"/>')
    return "".join(shapes)


def _count(number: int, one: str) -> str:
    return f"{number} {one if number == 1 else one + 's'}"


def _data_url(frame: Tensor) -> str:
    """A frame as a small JPEG in a data URL."""
    picture = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail(_THUMBNAIL)
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=84)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode()
