"""Draws the scenes of a video as HTML: a thumbnail a scene, and the similarity of neighbouring frames under them."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from apps.demo.demo_session import Caption
from membridge.opened_medium import OpenedMedium, Scene

_MOST_CARDS = 120
_THUMBNAIL = (160, 120)  # pixels
_WIDTH, _HEIGHT, _MARGIN = 1000.0, 150.0, 12.0
_MOST_POINTS = 1000


def scenes_html(medium: OpenedMedium, attention: Sequence[float] | None) -> str:
    """The scenes as a row of cards, and the curve under it.

    Args:
        medium: The video or picture.
        attention: How much the last question attended to each scene; None: not known.
    """
    scenes = medium.scenes[:_MOST_CARDS]
    most = max(attention, default=0.0) if attention else 0.0
    cards = [
        _card(number, scene, _thumbnail(medium, scene), None if not attention or not most else attention[number] / most)
        for number, scene in enumerate(scenes)
    ]
    left_out = len(medium.scenes) - len(scenes)
    note = f'<div class="note">and {left_out} more scenes</div>' if left_out else ""
    return f'<div class="scenes">{"".join(cards)}{note}</div>{_legend(medium, attention)}{curve_svg(medium)}'


def curve_svg(medium: OpenedMedium) -> str:
    """The similarity of neighbouring frames over time, with a line where a scene begins; empty for a picture."""
    if len(medium.similarity) < 2:
        return ""
    times, values = np.asarray(medium.frame_ms[1:], dtype=float), np.asarray(medium.similarity)
    step = -(-len(values) // _MOST_POINTS)
    lows = [slice(first, first + step) for first in range(0, len(values), step)]  # a cut must stay visible
    points = [(times[part][int(values[part].argmin())], values[part].min()) for part in lows]
    end = max(float(medium.frame_ms[-1]), 1.0)
    bottom, top = min(float(values.min()), 0.9), max(float(values.max()), 1.0)

    def place(time: float, value: float) -> tuple[float, float]:
        share = (value - bottom) / (top - bottom)
        return time / end * _WIDTH, _HEIGHT - _MARGIN - share * (_HEIGHT - 2 * _MARGIN)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    cuts = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT:g}" class="cut"/>'
        for x in (scene.start_ms / end * _WIDTH for scene in medium.scenes[1:])
    )
    marks = "".join(
        f'<span style="left:{share:.0%}">{clock(round(share * end))}</span>' for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    return (
        '<div class="curve"><div class="curve-title">Similarity of neighbouring frames; a line is where a scene '
        f'begins</div><svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none">{cuts}'
        f'<polyline points="{line}" class="similarity"/></svg><div class="times">{marks}</div></div>'
    )


def captions_html(captions: Sequence[Caption], *, is_working: bool = False) -> str:
    """The captions with their times, the newest last.

    Args:
        captions: In the order of time.
        is_working: Whether more may come.
    """
    rows = [
        f'<li data-start="{each.start_ms}" data-end="{each.end_ms}"><time>{clock(each.start_ms)} – '
        f"{clock(each.end_ms)}</time><span>{html.escape(each.text) or '(no words)'}</span></li>"
        for each in captions
    ]
    if is_working:
        rows.append('<li class="working"><time></time><span>…</span></li>')
    empty = '<p class="empty">Captions appear here, one for each scene.</p>'
    return f'<ol class="captions">{"".join(rows)}</ol>' if rows else empty


def clock(milliseconds: int) -> str:
    """A time as ``1:05`` or ``1:02:03``."""
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _card(number: int, scene: Scene, picture: str, attended: float | None) -> str:
    bars = "" if scene.admitted is None else _bar("admitted", scene.admitted)
    bars += "" if attended is None else _bar("attended", attended)
    kept = " kept" if scene.admitted is not None and scene.admitted >= 0.5 else ""
    return (
        f'<figure class="scene{kept}" data-start="{scene.start_ms}" data-end="{scene.end_ms}">'
        f'<img src="{picture}" alt="scene {number + 1}"/>'
        f"<figcaption><b>{number + 1}</b> {clock(scene.start_ms)} – {clock(scene.end_ms)}</figcaption>{bars}</figure>"
    )


def _bar(name: str, share: float) -> str:
    return f'<div class="bar {name}" title="{name} {share:.0%}"><i style="width:{share:.0%}"></i></div>'


def _legend(medium: OpenedMedium, attention: Sequence[float] | None) -> str:
    parts = [f"{len(medium.scenes)} scene{'s' if len(medium.scenes) != 1 else ''}, {medium.num_frames} frames"]
    if any(scene.admitted is not None for scene in medium.scenes):
        held = sum((scene.admitted or 0) >= 0.5 for scene in medium.scenes)
        parts.append(f'<i class="dot admitted"></i> admitted to the memory: {held}')
    if attention:
        parts.append('<i class="dot attended"></i> attended to by the last question')
    return f'<div class="legend">{" &nbsp; ".join(parts)}</div>'


def _thumbnail(medium: OpenedMedium, scene: Scene) -> str:
    inside = [
        number for number, time in enumerate(medium.frame_ms) if scene.start_ms <= time <= scene.end_ms
    ]  # of a picture in tiles, all have the time 0 and the first is the whole picture
    number = inside[0] if medium.read.pictures is not None else inside[len(inside) // 2]
    return _data_url(medium.frames[number])


def _data_url(frame: Tensor) -> str:
    """A frame, uint8 ``[3, H, W]``, as a small JPEG."""
    picture = Image.fromarray(frame.permute(1, 2, 0).numpy())
    picture.thumbnail(_THUMBNAIL)
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode()
