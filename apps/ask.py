r"""Asks a trained model about videos and pictures: ``python -m apps.ask MODEL VIDEO... "question" ["question"...]``.

    python -m apps.ask runs/quickstart/model video.mp4 "Which shape was shown?"
    python -m apps.ask runs/quickstart/model a.mp4 b.mp4 "Which shape was shown?" "Which colour was shown?" --json
    python -m apps.ask runs/quickstart/model --questions questions.jsonl --out answers.jsonl

MODEL is a model folder, a name on the model hub, or a training run or its checkpoint. Arguments after it that are
files, or end like the file of a video or picture, are media. All others are questions. Each question is asked about
each medium by itself; with ``--together`` about all media at once. Every medium is read once.

With ``--json`` it prints a line for every answer: medium, question, answer, times of the first and last frame that was
read, number of frames, visual tokens, prompt and new tokens, and seconds of decoding, reading and answering.

``--questions`` reads JSON lines ``{"video": PATH, "question": TEXT}``, optionally with ``id``, ``options``, ``start``
and ``end``, and writes answers to ``--out``. The same command continues a stopped one: what is answered is not asked
again. A video that cannot be read is reported, and the others go on.

The exit status is 0 if every question was answered, 1 if some were not, 2 if an argument is wrong.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from apps.answer_arguments import add_answer_arguments, decoding_settings
from apps.ask_from_file import ask_from_file, check_same_questions
from apps.open_model import add_model_arguments, model_identity, open_given
from command_errors import explain, run_and_exit
from components.interfaces import DecodingSettings
from membridge.answer_file import AnswerFile
from membridge.answering_model import VideoLanguageModel
from membridge.asking import AskedQuestion, GivenAnswer, TimedMedium, ask_about, ask_about_all, open_timed
from membridge.conversation import EMPTY_ANSWER
from membridge.question_file import VideoPart, read_questions
from membridge.video_time import to_milliseconds

_MEDIA_NAME = re.compile(
    r"\S*\.(mp4|m4v|mov|mkv|webm|avi|gif|jpe?g|png|webp|bmp|tiff?|mpe?g|ts|flv|wmv|mp3|wav|m4a|flac|tar|jsonl?)|\w+://\S+",
    re.IGNORECASE,
)
INCOMPLETE = 1
"""Exit status if some questions were not answered."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Returns:
        Exit status.
    """
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    media, questions = split_arguments(options.asked)
    if options.questions is not None:
        if options.asked or options.out is None or options.together or options.json:
            parser.error("--questions needs --out ANSWERS.jsonl, and no media, questions, --together or --json")
        return _ask_from_file(options)
    if options.out is not None:
        parser.error("--out is for --questions; the answers to questions of the command line are printed")
    if _is_path(options.model) and not Path(options.model).is_dir():
        parser.error(f"the first argument is the model, but {options.model} is a file; give MODEL in front of it")
    if not media or not questions:
        parser.error(_what_is_missing(media, questions))
    model = open_given(options)
    settings = decoding_settings(model, options)
    if options.together:
        return _ask_together(model, media, questions, settings, options)
    return _ask_each(model, media, questions, settings, options)


def split_arguments(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Sort arguments into media and questions.

    Args:
        arguments: In any order.

    Returns:
        Paths that exist or end like the file of a video or picture, and all others as questions.
    """
    media, questions = [], []
    for argument in arguments:
        if _is_path(argument):
            media.append(Path(argument))
        elif argument.strip():
            questions.append(argument)
    return media, questions


def _ask_from_file(options: argparse.Namespace) -> int:
    """Answer the questions of a file that have no answer yet."""
    questions = read_questions(options.questions, VideoPart("", options.start, options.end))
    model = open_given(options)
    settings = decoding_settings(model, options)
    about = {
        "model": model_identity(options.model, options.config),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
    }
    root = options.questions.parent if options.media_root is None else options.media_root
    with AnswerFile(options.out, about) as answers:
        if answers.was_cut:
            print(f"{options.out}: removed a last line that was not written completely", file=sys.stderr)
        check_same_questions(questions, answers)
        remaining = [each for each in questions if each.id not in answers.answers]
        num_failed = ask_from_file(model, remaining, root, answers, settings, options.at_once)
    print(
        f"{options.out}: {len(questions) - num_failed} of {len(questions)} questions are answered, "
        f"{len(remaining) - num_failed} of them now"
    )
    return INCOMPLETE if num_failed else 0


def _is_path(argument: str) -> bool:
    try:
        return _MEDIA_NAME.fullmatch(argument) is not None or Path(argument).exists()
    except (OSError, ValueError):  # too long for a file's name, or with a null character
        return False


def _what_is_missing(media: Sequence[Path], questions: Sequence[str]) -> str:
    if not media and not questions:
        return "give the file of a video or picture, and a question"
    if not media:
        return (
            f"none of the arguments is a file: {', '.join(map(repr, questions))}; give the file of a video or picture"
        )
    return f"there is no question, only media: {', '.join(map(str, media))}; give a question in quotation marks"


def _ask_each(
    model: VideoLanguageModel,
    media: Sequence[Path],
    questions: Sequence[str],
    settings: DecodingSettings,
    options: argparse.Namespace,
) -> int:
    """Ask every question about every medium, and go on after a medium that cannot be read."""
    asked = [AskedQuestion(question) for question in questions]
    num_failed = 0
    for path in media:
        try:
            opened = open_timed(model, path, options.start, options.end)
        except (OSError, ValueError) as error:
            if len(media) == 1:
                raise
            print(f"error: {explain(error) or error}", file=sys.stderr, flush=True)
            num_failed += 1
            continue
        answers = ask_about(model, opened.medium, asked, settings)
        if not options.json and len(media) * len(questions) > 1:
            print(path)
        show = _show_json if options.json else partial(_show, is_alone=len(media) * len(questions) == 1)
        for question, answer in zip(questions, answers, strict=True):
            show([opened], question, answer)
    if num_failed:
        print(f"error: {num_failed} of {len(media)} media could not be read; see above", file=sys.stderr, flush=True)
    return INCOMPLETE if num_failed else 0


def _ask_together(
    model: VideoLanguageModel,
    media: Sequence[Path],
    questions: Sequence[str],
    settings: DecodingSettings,
    options: argparse.Namespace,
) -> int:
    """Ask every question about all media at once."""
    opened = [open_timed(model, path, options.start, options.end) for path in media]
    show = _show_json if options.json else partial(_show, is_alone=len(questions) == 1)
    for question in questions:
        show(opened, question, ask_about_all(model, [each.medium for each in opened], question, settings))
    return 0


def _show(_media: Sequence[TimedMedium], question: str, answer: GivenAnswer, *, is_alone: bool) -> None:
    text = answer.text or EMPTY_ANSWER
    print(text if is_alone else f"  {question}\n    {text}", flush=True)


def _show_json(media: Sequence[TimedMedium], question: str, answer: GivenAnswer) -> None:
    facts = [each.facts() for each in media]
    shown = {"media": facts} if len(media) > 1 else facts[0]
    print(json.dumps({**shown, "question": question, **answer.facts()}, ensure_ascii=False), flush=True)


def _time(text: str) -> int:
    try:
        return to_milliseconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m apps.ask",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument("asked", metavar="VIDEO or QUESTION", nargs="*", help="media and questions, in any order")
    parser.add_argument("--together", action="store_true", help="ask every question about all media at once")
    parser.add_argument("--json", action="store_true", help="print a JSON object for every answer")
    parser.add_argument("--questions", type=Path, help="file of questions, JSON lines")
    parser.add_argument("--out", type=Path, help="file of answers for --questions, JSON lines")
    parser.add_argument(
        "--media-root", type=Path, help="folder of the videos in --questions (default: that of the file)"
    )
    add_answer_arguments(parser)
    parser.add_argument("--start", type=_time, help="start of the part to look at: seconds, mm:ss or h:mm:ss")
    parser.add_argument("--end", type=_time, help="end of that part")
    parser.add_argument(
        "--at-once",
        type=_positive,
        default=16,
        help="questions of a video that are answered at the same time (default: 16)",
    )
    return parser


if __name__ == "__main__":
    run_and_exit(main)
