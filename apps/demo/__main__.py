"""Shows a web page to try a model: ``python -m apps.demo MODEL``.

    python -m apps.demo runs/quickstart/model

The page takes a video or a webcam. It shows the scenes, the similarity of neighbouring frames and a caption for each
scene, and answers questions. It says which scenes the memory admitted and which were attended to.

The page can be opened from this machine only, unless ``--host`` is given. Nothing is sent anywhere else. Uploads are in
a temporary folder, which is removed when the program ends.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from apps.demo.demo_session import DemoOptions
from apps.open_model import add_model_arguments, open_given
from apps.serve import listen
from command_errors import run_and_exit
from components.model import VideoLanguageModel

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(arguments: Sequence[str] | None = None) -> None:
    """Show the page until Ctrl-C or SIGTERM.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Raises:
        ValueError: An option is wrong, or the model cannot be opened.
        FileNotFoundError: There is no such model.
        ImportError: Gradio is not installed.
    """
    options = _parse(arguments)
    if find_spec("gradio") is None:
        raise ImportError("apps.demo needs the package gradio: pip install 'membridge[demo]'")
    with listen(options.host, options.port) as listening:  # found before a large model is opened
        options.port = listening.getsockname()[1]
    if options.host not in _LOOPBACK:
        print(
            f"warning: everybody who reaches {options.host} can use this page and upload files",
            file=sys.stderr,
            flush=True,
        )
    model = open_given(options)
    with tempfile.TemporaryDirectory(prefix="membridge-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        serve(model, options)


def serve(model: VideoLanguageModel, options: argparse.Namespace) -> None:
    """Build and show the page until Ctrl-C or SIGTERM.

    Args:
        model: The model.
        options: The result of the command line.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # Gradio looks for a newer version of itself otherwise
    from apps.demo.demo_page import build_page, launch_options
    from apps.demo.demo_tabs import DemoSessions

    limits = DemoOptions(options.question, options.max_seconds, options.max_captions, options.max_new_tokens)
    name = options.name or Path(options.model).absolute().name
    page = build_page(DemoSessions(model, limits), name)
    _, address, _ = page.launch(
        server_name=options.host, server_port=options.port, max_file_size=options.max_mb << 20, **launch_options()
    )
    signal.signal(signal.SIGTERM, _interrupt)
    print(f"showing {name} at {address} (Ctrl-C ends it)", flush=True)
    try:
        page.block_thread()
    finally:
        page.close()


def _interrupt(*_: object) -> None:
    """End as after Ctrl-C, so that the folder of uploads is removed."""
    raise KeyboardInterrupt


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = DemoOptions()
    parser = argparse.ArgumentParser(
        prog="python -m apps.demo",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port; 0 chooses a free one (default: 7860)")
    parser.add_argument("--name", help="name of the model on the page (default: that of its folder)")
    parser.add_argument("--question", default=defaults.question, help="what is asked about a scene for its caption")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer (default: as in the model's evaluation)")
    parser.add_argument("--max-mb", type=int, default=500, help="largest upload in MiB (default: 500)")
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=defaults.max_seconds,
        help=f"longest video, and longest time of a webcam (default: {defaults.max_seconds:g})",
    )
    parser.add_argument(
        "--max-captions",
        type=int,
        default=defaults.max_captions,
        help=f"scenes of a video that get a caption; 0 for none (default: {defaults.max_captions})",
    )
    options = parser.parse_args(arguments)
    if options.max_mb < 1 or not 0 < options.max_seconds < float("inf") or options.max_captions < 0:
        parser.error("--max-mb and --max-seconds must be above 0 and finite, and --max-captions at least 0")
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        parser.error("--max-new-tokens must be at least 1")
    return options


if __name__ == "__main__":
    run_and_exit(main)
