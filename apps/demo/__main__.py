"""A web page to try a model: ``python -m apps.demo MODEL``.

The page takes a video, a picture or a webcam, shows its scenes, the similarity of neighbouring frames and a caption for
each scene, and answers questions. It says which scenes the memory holds and which the last question attended to.

It is reached from this machine only, unless ``--host`` is given. Nothing is sent anywhere else.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from apps.demo.demo_session import DemoOptions
from apps.open_model import add_model_arguments, open_given
from command_errors import run_and_exit
from components.model import VideoLanguageModel

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STYLE = Path(__file__).with_name("page.css")


def main(arguments: Sequence[str] | None = None) -> None:
    """Show the page until Ctrl-C.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Raises:
        ValueError: An option is wrong, or the model cannot be opened.
        ImportError: Gradio is not installed.
    """
    options = _parse(arguments)
    if find_spec("gradio") is None:
        raise ImportError("the demo needs gradio: pip install -c constraints.txt '.[demo]'")
    if options.host not in _LOOPBACK:
        print(f"warning: everybody who reaches {options.host} can use this page and upload files", file=sys.stderr)
    model = open_given(options)
    with private_folder() as folder:
        serve(model, options, folder)


class private_folder:  # noqa: N801  used as a function
    """A folder for uploads that is removed at the end; Gradio is told of it before it is imported."""

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="membridge-demo-"))
        # Before the import of gradio, which asks its makers' servers otherwise.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(self._path)}
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def serve(model: VideoLanguageModel, options: argparse.Namespace, folder: Path) -> None:
    """Build and show the page.

    Args:
        model: The model.
        options: The result of the command line.
        folder: For uploads.
    """
    import gradio as gr

    from apps.demo.demo_page import DemoSessions, build_page

    limits = DemoOptions(options.question, options.max_seconds, options.max_captions, options.max_new_tokens)
    name = options.name or Path(options.model).absolute().name
    page = build_page(DemoSessions(model, limits), name)
    _, address, _ = page.launch(
        server_name=options.host,
        server_port=options.port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        max_file_size=options.max_mb << 20,
        blocked_paths=[str(Path.cwd())],
        allowed_paths=[],
        footer_links=[],
        css_paths=_STYLE,
        theme=gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=["system-ui", "sans-serif"]),
    )
    print(f"showing {name} at {address} (uploads are kept in {folder} until the end; Ctrl-C ends it)", flush=True)
    try:
        page.block_thread()
    finally:
        page.close()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="apps.demo", description="Show a web page to try a model.")
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port (default 7860)")
    parser.add_argument("--name", help="name of the model on the page; that of its folder by default")
    parser.add_argument("--question", default=DemoOptions.question, help="what is asked about every scene")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer (default: as in the model's evaluation)")
    parser.add_argument("--max-mb", type=int, default=500, help="largest upload in MiB (default 500)")
    parser.add_argument("--max-seconds", type=float, default=600.0, help="longest video (default 600)")
    parser.add_argument("--max-captions", type=int, default=50, help="most scenes that get a caption (default 50)")
    options = parser.parse_args(arguments)
    if options.max_mb < 1 or options.max_seconds <= 0 or options.max_captions < 0:
        parser.error("--max-mb, --max-seconds and --max-captions must be positive")
    return options


if __name__ == "__main__":
    run_and_exit(main)
