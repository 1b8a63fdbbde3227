"""The page of the demo: its layout, and what happens on a click."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from apps.demo.demo_tabs import DemoSessions
from apps.demo.page_events import answer_question, read_file, watch_webcam
from apps.demo.scene_strip import captions_html, scenes_html

_STREAM_EVERY_S = 0.25
_STYLE = Path(__file__).with_name("page.css")
Updates = dict[Any, Any]
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


def launch_options() -> dict[str, Any]:
    """Arguments of Gradio's ``launch`` that do not depend on the command line."""
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["monospace"],
    )
    return {
        "theme": theme,
        "css_paths": _STYLE,
        "footer_links": [],
        "share": False,
        "inbrowser": False,
        "quiet": True,
        "prevent_thread_lock": True,
        "show_error": True,
        "ssr_mode": False,
        "enable_monitoring": False,
    }


class Widgets(NamedTuple):
    """What the page consists of."""

    video: gr.Video
    webcam: gr.Image
    video_tab: gr.Tab
    webcam_tab: gr.Tab
    status: gr.HTML
    scenes: gr.HTML
    captions: gr.HTML
    chat: gr.Chatbot
    question: gr.Textbox
    stop: gr.Button
    again: gr.Button


def build_page(sessions: DemoSessions, name: str) -> gr.Blocks:
    """Build the page.

    Args:
        sessions: The open tabs.
        name: Name of the model, to show.
    """
    page = gr.Blocks(title=f"Demo of {name}", delete_cache=(600, 3600), analytics_enabled=False)
    with page:
        gr.HTML(
            f"<h1>Video demo</h1><p>The model <b>{html.escape(name)}</b> cuts a video into scenes, captions each of "
            "them and answers questions. Upload a video or start the webcam.</p>",
            elem_id="title",
        )
        _connect(page, sessions, _layout())
    page.queue(default_concurrency_limit=sessions.most, max_size=4 * sessions.most, api_open=False)
    return page


def _layout() -> Widgets:
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=420):
            with gr.Tabs(elem_id="sources"):
                with gr.Tab("Video") as video_tab:
                    video = gr.Video(
                        sources=["upload"], include_audio=True, show_label=False, buttons=[], elem_id="video",
                        height=320,
                    )  # fmt: skip
                with gr.Tab("Webcam") as webcam_tab:
                    webcam = gr.Image(
                        sources=["webcam"], streaming=True, show_label=False, buttons=[], elem_id="webcam", height=320
                    )
            status = gr.HTML("", elem_id="status")
        with gr.Column(scale=4, min_width=340):
            chat = gr.Chatbot(
                show_label=False, height=330, elem_id="chat", placeholder="Answers appear here.", buttons=[],
                render_markdown=False, feedback_options=None, allow_file_downloads=False, allow_tags=False,
            )  # fmt: skip
            question = gr.Textbox(
                placeholder="Ask about the video", show_label=False, submit_btn=True, elem_id="question",
                max_length=4000, max_lines=4,
            )  # fmt: skip
            with gr.Row(elem_id="buttons"):
                stop = gr.Button("Stop the answer", size="sm", elem_id="stop")
                again = gr.Button("Begin again", size="sm", elem_id="again")
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=420):
            scenes = gr.HTML(scenes_html(None), elem_id="scenes")
        with gr.Column(scale=4, min_width=340):
            captions = gr.HTML(captions_html([]), elem_id="captions")
    return Widgets(video, webcam, video_tab, webcam_tab, status, scenes, captions, chat, question, stop, again)


def _connect(page: gr.Blocks, sessions: DemoSessions, on: Widgets) -> None:
    """Say what happens on a click. Gradio recognises the tab's request by its annotation."""
    results = [on.status, on.scenes, on.captions, on.chat]

    def read(path: str | None, request: gr.Request) -> Iterator[Updates]:
        for update in read_file(sessions.of(request.session_hash), path):
            yield {getattr(on, name): value for name, value in update.items()}

    def answer(text: str, history: list[Any], request: gr.Request) -> Iterator[Updates]:
        for update in answer_question(sessions.of(request.session_hash), text, history):
            yield {getattr(on, name): value for name, value in update.items()}

    def watch(frame: NDArray[np.uint8] | None, request: gr.Request) -> Updates:
        update = watch_webcam(sessions.of(request.session_hash), frame)
        changed = {getattr(on, name): value for name, value in update.items()}
        return changed or {on.status: gr.skip()}  # Gradio refuses an empty one

    def clear(request: gr.Request) -> list[Any]:
        sessions.of(request.session_hash).clear()
        return [None, "", scenes_html(None), captions_html([]), []]

    def clear_chat(request: gr.Request) -> None:
        sessions.of(request.session_hash).clear_chat()

    def stop_answer(request: gr.Request) -> None:
        sessions.of(request.session_hash).stop_answer()

    def choose_file(request: gr.Request) -> None:
        sessions.of(request.session_hash).takes_webcam = False

    def choose_webcam(request: gr.Request) -> None:
        sessions.of(request.session_hash).takes_webcam = True

    def forget(request: gr.Request) -> None:
        sessions.forget(request.session_hash)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    on.video.upload(read, [on.video], results, trigger_mode="multiple", **quiet)
    on.video.clear(clear, None, [on.video, *results], **quiet)
    on.webcam.stream(watch, [on.webcam], results, stream_every=_STREAM_EVERY_S, **quiet)
    on.question.submit(answer, [on.question, on.chat], [on.question, on.chat, on.status, on.scenes], **quiet)
    on.stop.click(stop_answer, None, None, queue=False, **quiet)
    on.chat.clear(clear_chat, None, None, queue=False, **quiet)
    on.again.click(clear, None, [on.video, *results], queue=False, **quiet)
    on.video_tab.select(choose_file, None, None, queue=False, **quiet)
    on.webcam_tab.select(choose_webcam, None, None, queue=False, **quiet)
    page.load(None, js=_FOLLOW)
    page.unload(forget)
