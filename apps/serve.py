"""Serves a model over HTTP, in the form of OpenAI's chat completions: ``python -m apps.serve MODEL``.

    python -m apps.serve MODEL --root videos

    curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" -d '{
        "model": "MODEL", "messages": [{"role": "user", "content": [
            {"type": "video_url", "video_url": {"url": "clip.mp4"}}, {"type": "text", "text": "What happens?"}]}]}'

A video or picture is a path below ``--root``, a URL of a host in ``--allow-host``, an upload (``POST /v1/files``) or a
data URL. ``POST /v1/sessions`` starts a session for a video that still plays. ``docs/using.md`` shows all routes.

The model answers one request at a time, and others wait. SIGTERM and Ctrl-C let it finish what it has accepted.
"""

import argparse
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from apps.open_model import add_model_arguments, open_given
from command_errors import run_and_exit
from components.model import VideoLanguageModel
from lightning_modules.console.option_spelling import add_option
from membridge.serving.serving_limits import ServingLimits, ServingOptions

KEY_VARIABLE = "MEMBRIDGE_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LARGEST_HEADERS = 64 << 10
_MB = 1 << 20
_SMALLEST_KEY = 16
_PACKAGES = ("uvicorn", "starlette", "python_multipart")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server until it gets SIGTERM or Ctrl-C.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Raises:
        ValueError: An option is wrong, or the model cannot be served.
        FileNotFoundError: There is no such model, root or key file.
        ImportError: A package that only serving needs is not installed.
    """
    given = _parser().parse_args(arguments)
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f"serving needs {', '.join(missing)}: pip install 'membridge[serve]'")
    if given.root is not None and not given.root.is_dir():
        raise FileNotFoundError(f"--root {given.root} is no folder; give the folder of the videos")
    api_key = read_api_key(given.api_key_file)
    is_local = given.host in _LOOPBACK
    if not is_local and api_key is None:
        print(f"warning: everybody who reaches {given.host} can use this server; give --api-key-file", file=sys.stderr)
    limits = ServingLimits(
        waiting=given.queue,
        upload_bytes=given.max_upload_mb * _MB,
        stored_bytes=given.max_stored_mb * _MB,
        cache_bytes=given.cache_mb * _MB,
        video_seconds=given.max_video_seconds,
        new_tokens=given.max_tokens,
        body_seconds=given.body_seconds,
        answer_seconds=given.answer_seconds,
        sessions=given.max_sessions,
        session_seconds=given.session_seconds,
    )
    with listen(given.host, given.port) as listening:
        model = open_given(given)
        with tempfile.TemporaryDirectory(prefix="membridge-serve-", dir=given.upload_folder) as folder:
            tempfile.tempdir = folder  # of files while they arrive too
            options = ServingOptions(
                given.name or Path(given.model).absolute().name,
                Path(folder),
                given.root,
                tuple(host.lower() for host in given.allow_host),
                api_key,
                only_loopback_names=is_local and api_key is None,  # a page in a browser does not know the key
                limits=limits,
            )
            _serve(model, options, listening, given)


def _serve(
    model: VideoLanguageModel, options: ServingOptions, listening: socket.socket, given: argparse.Namespace
) -> None:
    import uvicorn

    from membridge.serving.header_timeout import HeaderTimeoutProtocol
    from membridge.serving.web_application import build_application

    host = f"[{given.host}]" if ":" in given.host else given.host
    print(f"serving {options.name} at http://{host}:{listening.getsockname()[1]}/v1", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn sends it again when it has stopped
    config = uvicorn.Config(
        build_application(model, options),
        http=HeaderTimeoutProtocol,
        ws="none",
        log_level=given.log_level,
        timeout_graceful_shutdown=given.stop_seconds,
        h11_max_incomplete_event_size=_LARGEST_HEADERS,
        server_header=False,
        proxy_headers=False,
    )
    uvicorn.Server(config).run([listening])


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address, before a large model is read.

    Raises:
        ValueError: The address cannot be used.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ValueError(f"port {port} of {host} cannot be used ({error}); choose another --port or --host") from error


def read_api_key(path: Path | None) -> str | None:
    """The key that clients must send: from a file, or else from the environment.

    Raises:
        ValueError: It is too short, or holds other characters than printable ASCII ones.
    """
    where = f"environment variable {KEY_VARIABLE}" if path is None else str(path)
    key = os.environ.get(KEY_VARIABLE) if path is None else path.read_text(encoding="utf-8").strip()
    if key is None:
        return None
    if len(key) < _SMALLEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            f"the API key in {where} must have at least {_SMALLEST_KEY} letters, digits or signs, without spaces; "
            "openssl rand -hex 24 makes one"
        )
    return key


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m apps.serve",
        description=(__doc__ or "").split("\n\n")[0].replace("``", ""),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    limits = ServingLimits()
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for every network")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 for any that is free")
    parser.add_argument("--name", help="name of the model for clients; the folder's name if not given")
    parser.add_argument("--root", type=Path, help="folder of videos and pictures that clients may name")
    add_option(
        parser, "--allow-host", nargs="+", action="extend", default=[], help="hosts of URLs that clients may name"
    )
    add_option(parser, "--api-key-file", type=Path, help=f"file with the key for clients; or set {KEY_VARIABLE}")
    add_option(parser, "--upload-folder", type=Path, help="folder for uploads; the system's temporary one if not given")
    parser.add_argument("--queue", type=int, default=limits.waiting, help="requests that are answered or wait")
    add_option(parser, "--max-tokens", type=int, default=limits.new_tokens, help="longest answer")
    add_option(parser, "--max-video-seconds", type=float, default=limits.video_seconds, help="longest video")
    add_option(parser, "--max-upload-mb", type=int, default=limits.upload_bytes // _MB, help="largest file")
    add_option(parser, "--max-stored-mb", type=int, default=limits.stored_bytes // _MB, help="all files together")
    add_option(parser, "--cache-mb", type=int, default=limits.cache_bytes // _MB, help="memory for media read before")
    add_option(parser, "--body-seconds", type=float, default=limits.body_seconds, help="time of a small body to arrive")
    add_option(parser, "--answer-seconds", type=float, default=limits.answer_seconds, help="longest time of an answer")
    add_option(parser, "--max-sessions", type=int, default=limits.sessions, help="streaming sessions at a time")
    add_option(
        parser, "--session-seconds", type=float, default=limits.session_seconds, help="unused sessions end after this"
    )
    add_option(parser, "--stop-seconds", type=int, default=60, help="time to finish what runs when the server stops")
    add_option(parser, "--log-level", choices=("warning", "info", "debug"), default="info")
    return parser


if __name__ == "__main__":
    run_and_exit(main)
