r"""Writes a web page of samples: ``python -m apps.look SHARDS... --out page.html``.

    python -m apps.look data/mine --out page.html
    python -m apps.look data/mine --out page.html --config run.yaml
    python -m apps.look data/mine --out page.html --keys clip7 clip9

The page shows frames with their times, conversations with their options, and what is wrong with each sample. It is one
file, loads nothing, runs no script, and opens in any browser. It shows ``--num`` samples: up to half of them are such
that cannot be used, the others are spread evenly over the shards.

With ``--config``, the config of a training run, frames are chosen and cropped as the run does. Conversations are
encoded with its tokenizer, so that too long ones are found. Its encoder and segmenter cut videos into scenes, unless
there is ``--no-encoder``. ``--tokenizer`` alone counts tokens without a config.

The exit status is 0 if the page is written, 1 if it is written but a shard could not be read, 2 if an argument is
wrong.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from apps.open_model import chosen_device
from command_errors import run_and_exit
from components.checkpoints.atomic_folder import write_atomically
from components.language.chat_template import ChatSettings
from datamodules.conversations import load_tokenizer
from datamodules.errors import ShardError, count_of
from datamodules.media.frame_sampling import FrameSampling
from datamodules.media.media_reader import MediaReader
from datamodules.media.transforms import PixelTransform
from datamodules.shards.shard_cache import ShardCache
from datamodules.shards.shard_index import ShardIndex, load_index
from datamodules.shards.shard_names import find_shards
from datamodules.shards.shard_reader import ShardReader
from datamodules.validate.conversation_check import ConversationCheck
from membridge.sample_page.html_text import size, without_credentials
from membridge.sample_page.page_html import SamplePage, ShardTotals
from membridge.sample_page.sample_choice import choose_samples, duplicate_keys, find_samples
from membridge.sample_page.sample_reading import SampleReading
from membridge.sample_page.shown_sample import ShownSample
from membridge.sample_page.video_cuts import VideoCuts
from membridge.sample_page.whole_frames import WholeFrames

_PAGE_BEGINNING = b"<!doctype html"
INCOMPLETE = 1
"""Exit status if a shard could not be read."""


class _Settings(NamedTuple):
    """How samples are read."""

    media: MediaReader
    conversations: ConversationCheck | None = None
    cuts: VideoCuts | None = None
    cache: ShardCache = ShardCache()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line after the program's name; that of the process by default.

    Returns:
        Exit status.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.out.is_dir():
        parser.error(f"--out {options.out} is a folder; give the file to write, such as {options.out / 'page.html'}")
    if options.config is None and (options.no_encoder or options.device is not None):
        parser.error("--no-encoder and --device are about the encoder of --config; give a config")
    _check_page(options.out)
    names = find_shards(options.shards)
    settings = _settings(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written is known before media are decoded
    indexes, unreadable = _open(names, settings.cache)
    reader = ShardReader(indexes)
    chosen = choose_samples(reader, options.num) if options.keys is None else find_samples(reader, options.keys)
    page = SamplePage(ShardTotals.of(reader), unreadable, round(options.max_mb * 1e6))
    reading = SampleReading(reader, settings.media, options.frames, settings.conversations, settings.cuts)
    page.add(_samples(reading, chosen))
    content = page.html().encode("utf-8", "replace")
    write_atomically(options.out, content.decode())
    of_all = f"{page.num_samples:,} of {count_of(len(reader), 'sample')}"
    print(f"{options.out}: {of_all}, {len(page.wrong)} of them wrong, {size(len(content))}")
    if page.is_full:
        print(f"{len(chosen) - page.num_samples} samples did not fit into --max-mb {options.max_mb:g}", file=sys.stderr)
    return INCOMPLETE if unreadable else 0


def _check_page(path: Path) -> None:
    """Refuse to replace a file that is no page, such as a shard.

    Raises:
        ValueError: The file is there already, and is no page.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        if not file.read(len(_PAGE_BEGINNING)).lower().startswith(_PAGE_BEGINNING):
            raise ValueError(f"--out {path} is there already and is no page of samples; choose another file")


def _open(names: Sequence[str], cache: ShardCache) -> tuple[list[ShardIndex], tuple[str, ...]]:
    """Indexes of the shards, and a message about each that cannot be read."""
    indexes, unreadable = [], []
    for name in tqdm(names, "indexing shards", leave=False, delay=2, unit="shard"):
        try:
            indexes.append(load_index(name, cache))
        except ShardError as error:
            print(f"error: {without_credentials(str(error))}", file=sys.stderr, flush=True)
            unreadable.append(str(error))
    return indexes, tuple(unreadable)


def _samples(reading: SampleReading, chosen: Sequence[int]) -> Iterator[ShownSample]:
    duplicates = duplicate_keys(reading.reader, chosen)
    for number in tqdm(chosen, "reading samples", leave=False, delay=2, unit="sample"):
        yield reading.read(number, duplicates.get(number))


def _settings(options: argparse.Namespace) -> _Settings:
    """How samples are read: as the config's run does, or by defaults.

    Raises:
        ValueError: The config or the tokenizer cannot be used.
    """
    if options.config is not None:
        settings = _settings_of_run(options)
    else:
        settings = _Settings(MediaReader(FrameSampling(num_frames=options.frames), WholeFrames()))
    check = settings.conversations
    if options.tokenizer is not None:
        check = ConversationCheck(options.tokenizer) if check is None else check._replace(tokenizer=options.tokenizer)
    if check is not None:
        load_tokenizer(check.tokenizer)  # a wrong one is found before media are decoded
    return settings._replace(conversations=check)


def _settings_of_run(options: argparse.Namespace) -> _Settings:
    # Lightning's packages; without a config they are not needed.
    from datamodules.instruction import InstructionDataModule
    from lightning_modules.console.command_line import VideoLanguageCLI
    from lightning_modules.video_language import VideoLanguageModule

    device = chosen_device(options.device)
    given = [argument for path in options.config for argument in ("--config", str(path))]
    cli = VideoLanguageCLI(VideoLanguageModule, InstructionDataModule, args=given, run=False)
    data: InstructionDataModule = cli.datamodule
    cuts = None
    if not options.no_encoder:
        cuts = VideoCuts(cli.model.make_encoder().to(device).eval(), cli.model.segmenter)
    transform = WholeFrames() if data.pixels.size is None else PixelTransform(data.pixels, train=False)
    check = None
    if data.tokenizer_path is not None:
        chat: ChatSettings = data.loading.chat_settings
        check = ConversationCheck(data.tokenizer_path, chat, data.loading.max_length)
    return _Settings(MediaReader(data.sampling, transform, data.loading.decoding), check, cuts, data.loading.cache)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return int(text)


def _megabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number < 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not a number of megabytes from 1 to 10000")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m apps.look",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", metavar="SHARDS", nargs="+", help="paths, folders, urls or patterns")
    parser.add_argument("--out", type=Path, required=True, help="file of the page, such as page.html")
    parser.add_argument("--num", type=_positive, default=24, help="most samples on the page (default: 24)")
    parser.add_argument("--keys", nargs="+", action="extend", help="show the samples with these keys instead")
    parser.add_argument("--frames", type=_positive, default=24, help="most frames shown of a video (default: 24)")
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        nargs="+",
        action="extend",
        help="config of a training run; several are merged in order",
    )
    parser.add_argument("--no-encoder", action="store_true", help="with --config: do not cut videos into scenes")
    parser.add_argument("--device", help="device of the encoder (default: a GPU if there is one)")
    parser.add_argument("--tokenizer", help="folder or hub name of a tokenizer that counts tokens")
    parser.add_argument("--max-mb", type=_megabytes, default=20.0, help="most megabytes of the page (default: 20)")
    return parser


if __name__ == "__main__":
    run_and_exit(main)
