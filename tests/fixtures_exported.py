"""A finished run of the quickstart's config on tiny parts, and its export. Plain functions; no fixture, no state."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

import train
from lightning_modules.export import main as export_command
from tests.documentation import ROOT
from tests.fixtures_data import make_clip, make_record, natural_frames, write_shard
from tests.fixtures_models import make_quickstart_parts

PIXELS = str(ROOT / "configs/quickstart_pixels.yaml")
QUESTION = "which colour ?"
_QUICK = ["--trainer.max_steps=2", "--data.loading.batch_size=4", "--data.order.curriculum=[]"]
_QUICK += ["--trainer.callbacks=[]", "--trainer.limit_val_batches=0"]


class Trained(NamedTuple):
    """A finished run of the quickstart's config on tiny parts, and its export."""

    folder: Path  # working directory of the run
    checkpoint: Path
    exported: Path
    video: bytes


def train_and_export(folder: Path) -> Trained:
    """Train two steps from pixels in ``folder``, and export the last checkpoint."""
    make_quickstart_parts(folder)
    clips = [make_clip(8, width=96, height=84, fps=2, frames=natural_frames(8, 84, 96, seed)) for seed in range(4)]
    records = [make_record([(QUESTION, answer)]) for answer in ("red", "green", "blue", "circle")]
    write_shard(
        folder / "runs/quickstart/videos/train-000000.tar",
        [(f"v{number}", records[number], clip, "mp4") for number, clip in enumerate(clips)],
    )
    videos = folder / "runs/quickstart/videos"
    for length in ("1x", "2x", "4x", "8x"):
        shutil.copyfile(videos / "train-000000.tar", videos / f"eval-{length}-000000.tar")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.main(["fit", "-c", PIXELS, *_QUICK])
        checkpoint = folder / "runs/quickstart/memory/version_0/checkpoints/final.ckpt"
        export_command([str(checkpoint), "runs/exported"])
    return Trained(folder, checkpoint, folder / "runs/exported", clips[0])
