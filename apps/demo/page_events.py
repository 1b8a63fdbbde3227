"""What the page shows after an event: the new content of its parts, by their names."""

import html
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.demo.demo_session import DemoSession, StoppedError
from apps.demo.scene_strip import StripVideo, captions_html, scenes_html
from command_errors import explain

_OF_TRAINING = re.compile(r",? or leave the sample out")
Update = dict[str, Any]


def read_file(session: DemoSession, path: str | None) -> Iterator[Update]:
    """Read an uploaded file and caption its scenes.

    Args:
        session: The tab's session.
        path: The file.

    Yields:
        What has changed after each step.
    """
    if path is None:
        return
    name = html.escape(Path(path).name)
    working = captions_html([], is_working=True)
    yield {"status": f"Reading {name} …", "scenes": scenes_html(None), "captions": working, "chat": []}
    try:
        medium = session.read(Path(path))
        captions = session.captions
        yield {"status": f"{name} is read. Ask about it.", "scenes": scenes_html(StripVideo.of_file(medium))}
        for _ in session.caption_scenes():
            yield {"captions": captions_html(captions, is_working=True)}
    except StoppedError:
        return
    except Exception as error:
        yield {"status": _error_html(error, Path(path)), "captions": captions_html([])}
        return
    left_out = len(medium.scenes) - len(captions)
    more = f" The last {left_out} scenes have no caption." if left_out > 0 else ""
    yield {"status": f"{name} is read. Ask about it.{more}", "captions": captions_html(captions)}


def answer_question(session: DemoSession, text: str, history: list[Any]) -> Iterator[Update]:
    """Answer a question.

    Args:
        session: The tab's session.
        text: The question.
        history: The messages before it, as Gradio has them.

    Yields:
        What has changed after each piece of the answer.
    """
    question = text.strip()
    if not question:
        return
    asked = [*history, {"role": "user", "content": question}]
    yield {"question": "", "chat": [*asked, {"role": "assistant", "content": "…"}], "status": ""}
    try:
        for so_far in session.ask(question):
            yield {"chat": [*asked, {"role": "assistant", "content": so_far}]}
        medium = session.medium
        if medium is not None:
            yield {"scenes": scenes_html(StripVideo.of_file(medium, session.attention()))}
    except StoppedError:
        yield {"question": text, "chat": history, "status": "Stopped. The question was not asked."}
    except Exception as error:
        yield {"question": text, "chat": history, "status": _error_html(error)}


def watch_webcam(session: DemoSession, frame: NDArray[np.uint8] | None) -> Update:
    """Take a webcam's frame; gives what has changed."""
    if frame is None:
        return {}
    try:
        has_read = session.watch(frame)
    except Exception as error:
        return {"status": _error_html(error)}
    webcam = session.webcam
    if webcam is None or not has_read:
        return {}
    video = StripVideo.of_webcam(webcam)
    shown = {"scenes": scenes_html(video), "captions": captions_html(session.captions, is_working=True)}
    if len(video.frame_ms) == 1:
        return {"status": "Watching the webcam. Ask at any time.", "chat": [], **shown}
    return shown


def _error_html(error: Exception, path: Path | None = None) -> str:
    """A message about what went wrong; an unexpected error is printed to the terminal too."""
    message = explain(error)
    if message is None:
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {error} (unexpected; the terminal has details)"
    if path is not None:
        message = message.replace(str(path), path.name)
    message = _OF_TRAINING.sub("", message)
    return f'<span class="error" role="alert">{html.escape(message)}</span>'
