"""The page of the demo: its layout, and what happens on a click."""

import html
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from apps.demo.demo_session import DemoOptions, DemoSession
from apps.demo.scene_strip import captions_html, scenes_html
from command_errors import explain
from components.model import VideoLanguageModel

Update = dict[Any, Any]
_STREAM_EVERY_S = 0.25
_FOLLOW = """
() => {
  const mark = (milliseconds) => {
    for (const each of document.querySelectorAll('[data-start]')) {
      const now = milliseconds >= +each.dataset.start && milliseconds <= +each.dataset.end + 500;
      each.classList.toggle('now', now);
    }
  };
  document.addEventListener('timeupdate', (event) => {
    if (event.target.closest('#video')) mark(1000 * event.target.currentTime);
  }, true);
}
"""
"""Marks the scene and the caption of the moment that the video player shows."""


class DemoSessions:
    """The sessions of all open tabs, by Gradio's hash of the tab.

    Args:
        model: The model.
        options: Limits and texts.
        most: Most tabs; the one that was opened first is forgotten where there are more.
    """

    def __init__(self, model: VideoLanguageModel, options: DemoOptions, most: int = 20) -> None:
        self.model = model
        self.options = options
        self.most = most
        self._sessions: dict[str, DemoSession] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def of(self, request: gr.Request) -> DemoSession:
        """The session of a tab; a new one where it has none."""
        tab = str(request.session_hash)
        with self._lock:
            if tab not in self._sessions:
                while len(self._sessions) >= self.most:
                    del self._sessions[next(iter(self._sessions))]
                self._sessions[tab] = DemoSession(self.model, self.options)
            return self._sessions[tab]

    def forget(self, request: gr.Request) -> None:
        """Release what a closed tab held."""
        with self._lock:
            self._sessions.pop(str(request.session_hash), None)


def build_page(sessions: DemoSessions, name: str) -> gr.Blocks:
    """Build the page.

    Args:
        sessions: The open tabs.
        name: Name of the model, to show.
    """
    with gr.Blocks(title=f"{name} – demo", delete_cache=(600, 3600), analytics_enabled=False) as page:
        gr.HTML(
            f"<h1>{html.escape(name)}</h1><p>Upload a video or picture, or start the webcam. The model cuts it into "
            "scenes, captions each, and answers questions.</p>",
            elem_id="title",
        )
        with gr.Row():
            with gr.Column(scale=6):
                with gr.Tabs():
                    with gr.Tab("Video"):
                        video = gr.Video(sources=["upload"], show_label=False, elem_id="video", height=330)
                    with gr.Tab("Picture"):
                        picture = gr.Image(
                            sources=["upload"], type="filepath", show_label=False, elem_id="picture", height=330
                        )
                    with gr.Tab("Webcam"):
                        webcam = gr.Image(
                            sources=["webcam"], streaming=True, show_label=False, elem_id="webcam", height=330
                        )
                status = gr.HTML("", elem_id="status")
                scenes = gr.HTML("", elem_id="scenes")
            with gr.Column(scale=5):
                captions = gr.HTML(captions_html([]), elem_id="captions")
                chat = gr.Chatbot(
                    show_label=False, height=300, elem_id="chat", placeholder="Answers appear here.", allow_tags=False,
                    buttons=[], feedback_options=None, allow_file_downloads=False,
                )  # fmt: skip
                question = gr.Textbox(
                    placeholder="Ask about the video …", show_label=False, submit_btn=True, stop_btn=True,
                    elem_id="question", max_length=4000,
                )  # fmt: skip
                again = gr.Button("Begin again", size="sm", variant="secondary", elem_id="again")
        shown = [status, scenes, captions, chat]

        def read(path: str | None, request: gr.Request) -> Iterator[Update]:
            for update in read_file(sessions.of(request), path):
                yield dict(zip(shown, update, strict=True))

        def answer(text: str, history: list[Any], request: gr.Request) -> Iterator[Update]:
            for update in answer_question(sessions.of(request), text, history):
                yield dict(zip([question, chat, status, scenes], update, strict=True))

        def watch(frame: NDArray[np.uint8] | None, request: gr.Request) -> tuple[Any, Any]:
            return watch_webcam(sessions.of(request), frame)

        def clear(request: gr.Request) -> tuple[Any, ...]:
            sessions.of(request).clear()
            return None, None, "", "", captions_html([]), []

        video.change(read, [video], shown, show_progress="hidden")
        picture.change(read, [picture], shown, show_progress="hidden")
        webcam.stream(watch, [webcam], [status, captions], stream_every=_STREAM_EVERY_S, show_progress="hidden")
        question.submit(answer, [question, chat], [question, chat, status, scenes], show_progress="hidden")
        again.click(clear, None, [video, picture, *shown], show_progress="hidden")
        page.load(None, js=_FOLLOW)
        page.unload(sessions.forget)
    page.queue(default_concurrency_limit=1, max_size=32, api_open=False)
    return page


def read_file(session: DemoSession, path: str | None) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Read an uploaded file and caption its scenes; gives status, scenes, captions and chat after each step."""
    if path is None:
        return
    name = Path(path).name
    yield f"Reading {html.escape(name)} …", "", captions_html([], is_working=True), []
    try:
        medium = session.read(Path(path))
    except (OSError, ValueError) as error:
        session.clear()
        yield error_html(str(explain(error) or error).replace(path, name)), "", captions_html([]), []
        return
    strip = scenes_html(medium, None)
    yield f"Captioning {html.escape(name)} …", strip, captions_html([], is_working=True), gr.skip()
    try:
        for _ in session.caption_scenes():
            yield gr.skip(), gr.skip(), captions_html(session.captions, is_working=True), gr.skip()
    except ValueError as error:
        yield error_html(str(explain(error) or error)), gr.skip(), captions_html(session.captions), gr.skip()
        return
    left_out = len(medium.scenes) - len(session.captions)
    more = f" The last {left_out} scenes have no caption." if left_out > 0 else ""
    yield f"{html.escape(name)} is read. Ask about it.{more}", gr.skip(), captions_html(session.captions), gr.skip()


def answer_question(session: DemoSession, text: str, history: list[Any]) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Answer a question; gives question, chat, status and scenes after each piece of the answer."""
    if not text.strip():
        return
    asked = [*history, {"role": "user", "content": text}]
    yield "", asked, "", gr.skip()
    try:
        for so_far in session.ask(text):
            yield gr.skip(), [*asked, {"role": "assistant", "content": so_far}], gr.skip(), gr.skip()
    except ValueError as error:
        yield text, history, error_html(str(explain(error) or error)), gr.skip()
        return
    medium = session.medium
    if medium is not None:
        yield gr.skip(), gr.skip(), gr.skip(), scenes_html(medium, session.attention())


def watch_webcam(session: DemoSession, frame: NDArray[np.uint8] | None) -> tuple[Any, Any]:
    """Take a webcam's frame; gives status and captions."""
    if frame is None:
        return gr.skip(), gr.skip()
    try:
        has_ended = session.watch(frame)
    except ValueError as error:
        return error_html(str(explain(error) or error)), gr.skip()
    live = session.live
    assert live is not None
    num_scenes = len(live.session.boundaries)
    status = f"Watching: {live.session.num_frames} frames read, {num_scenes} scenes have ended."
    return status, captions_html(session.captions, is_working=True) if has_ended else gr.skip()


def error_html(message: str) -> str:
    """A message about something that went wrong."""
    return f'<span class="error" role="alert">{html.escape(message)}</span>'
