from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules.monitoring import ThroughputMonitor, TrainingProgressBar
from tests.fixtures_models import PartFolders, make_batch, make_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer


def test_bar_shows_steps_loss_and_speed_and_goes_on_after_a_resume(
    folders: PartFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    shown = {}
    for resume in (None, str(tmp_path / "step=2.ckpt")):
        bar = TrainingProgressBar()
        trainer = make_trainer(
            tmp_path,
            4,
            enable_progress_bar=True,
            enable_checkpointing=True,
            callbacks=[bar, keep, ThroughputMonitor()],
            logger=RecordingLogger(),
        )
        trainer.fit(make_module(folders), make_loader([make_batch(folders)] * 4), ckpt_path=resume)
        shown[resume] = capsys.readouterr()
    for captured in shown.values():
        text = captured.out + captured.err
        assert "Training: 100%" in text
        assert "4/4" in text
        assert "loss=" in text
        assert "samples_a_second=" in text
        assert "Epoch" not in text
    resumed = shown[str(tmp_path / "step=2.ckpt")]
    assert "1/4" not in resumed.out + resumed.err
