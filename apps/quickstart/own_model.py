"""Makes of the quickstart's run what a user asks: a model folder that reads pixels, and one of its videos as a file."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from apps.commands import ROOT, run_command
from apps.quickstart.fetch import default_cache
from apps.quickstart.parts import ENCODER
from datamodules.shards.shard_reader import open_shards
from datamodules.shards.video_marks import VIDEO_MARK


class OwnModel(NamedTuple):
    """A model and a video to ask it about."""

    arguments: list[str]  # of python: the command that asks
    answer: str  # the right one


def make_own_model(out: Path, checkpoint: Path, shard: Path) -> OwnModel:
    """Export the memory model with the encoder that made its features, and write a held-out video as a file.

    The model trained on cached features, so it cannot read a file without that encoder.

    Args:
        out: Folder of the quickstart's run; receives ``model/`` and ``video.mp4``. Earlier ones are replaced.
        checkpoint: Checkpoint of the memory model.
        shard: Shard of videos; the first question about its first video is taken.

    Raises:
        SystemExit: The export failed.
    """
    model, video, encoder = out / "model", out / "video.mp4", out / "encoder.yaml"
    shutil.rmtree(model, ignore_errors=True)
    path = os.path.relpath(default_cache() / ENCODER.folder)
    # JSON is YAML; the cache may be elsewhere than in the config.
    encoder.write_text(json.dumps({"model": {"encoder": {"init_args": {"path": path}}}}) + "\n", encoding="utf-8")
    configs = ["--config", "configs/quickstart_pixels.yaml", str(encoder)]
    run_command(["-m", "lightning_modules.export", str(checkpoint), str(model), *configs])
    sample = open_shards([str(shard)]).read(0)
    video.write_bytes(sample.media[0].content.read())
    question, answer = sample.record.conversations[0].turns[:2]
    asked = question.content.replace(VIDEO_MARK, "").strip()
    return OwnModel(["-m", "apps.ask", str(model), str(video), asked], answer.content)


def command_of(arguments: list[str]) -> str:
    """The command line of this project's Python, as a user types it in the project's root folder."""
    program = Path(sys.executable)
    shown = program.relative_to(ROOT) if program.is_relative_to(ROOT) else program
    return shlex.join([str(shown), *arguments])
