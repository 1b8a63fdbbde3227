"""Talks with a trained model about videos and pictures, in the terminal: ``python -m apps.chat MODEL``.

    python -m apps.chat runs/quickstart/model --video clip.mp4
    echo "what shape was shown ?" | python -m apps.chat runs/quickstart/model --video clip.mp4

MODEL is a model folder, a name on the model hub, or a training run or its checkpoint. A line is a question, or a
command such as ``/load FILE``; ``/help`` lists the commands. Tokens of an answer appear as they come. Ctrl-C stops an
answer, Ctrl-D ends the program.

Where the input is no terminal, it reads one question or command a line and prints the answers alone to the standard
output. The exit status is then 0 if every line was answered, and 1 if some were not.
"""

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from apps.answer_arguments import add_answer_arguments, decoding_settings
from apps.open_model import add_model_arguments, open_given
from command_errors import run_and_exit
from membridge.conversation import Conversation
from membridge.saved_conversation import read_saved

INCOMPLETE = 1
"""Exit status if some lines of a pipe were not answered."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Returns:
        Exit status.

    Raises:
        ImportError: A package of this command is not installed.
        OSError: A file of the command line is not there or cannot be read.
        ValueError: An option is wrong, or a file of the command line cannot be used.
    """
    options = _parser().parse_args(arguments)
    if find_spec("rich") is None or find_spec("prompt_toolkit") is None:
        raise ImportError("apps.chat needs the packages rich and prompt_toolkit: pip install 'membridge[chat]'")
    from apps.chat.chat_lines import PipedLines, TypedLines, is_interactive
    from apps.chat.chat_screen import ChatScreen
    from apps.chat.chat_session import ChatSession

    for path in options.video:
        if not path.exists():  # found before a large model is opened
            raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()})")
    saved = None if options.open is None else read_saved(options.open)
    screen = ChatScreen(is_interactive=is_interactive())
    screen.say(f"Opening {options.model}.")
    model = open_given(options)
    chat = ChatSession(Conversation(model, decoding_settings(model, options), options.system), screen)
    if saved is not None:
        chat.open(options.open, saved)
    if options.fps is not None:
        chat.set_fps(options.fps)
    for path in options.video:
        chat.load(path)
    if screen.is_interactive:
        screen.say("Ask a question, or type /help. Ctrl-C stops an answer, Ctrl-D ends the program.")
    lines = TypedLines(screen, options.history, chat.commands) if screen.is_interactive else PipedLines()
    while not chat.has_ended and (line := lines.read()) is not None:
        chat.handle(line)
    return INCOMPLETE if screen.num_errors and not screen.is_interactive else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m apps.chat",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--video", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help="videos and pictures to load"
    )
    parser.add_argument("--open", type=Path, metavar="FILE", help="go on with a conversation that /save wrote")
    parser.add_argument("--system", help="system text (default: that of the model's chat template)")
    parser.add_argument("--fps", type=float, help="frames per second of the videos (default: as in training)")
    add_answer_arguments(parser)
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    parser.add_argument(
        "--history",
        type=Path,
        default=state / "membridge/chat_history",
        metavar="FILE",
        help="file of the typed lines, which the up arrow recalls (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    run_and_exit(main)
