import pytest
import torch

from benchmarks import packing
from benchmarks.packing import Batches, build_batch, main
from components.interfaces import TEXT_ONLY, VIDEO_PLACEHOLDER

TINY = ["--batches", "2", "--conversations", "8", "--most-words", "100", "--layers", "1", "--width", "32"]


def test_packed_rows_compute_fewer_positions_at_the_same_losses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--threads", "1", "--device", "cpu"]) == 0
    lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| p")]
    padded, packed = ([cell.strip() for cell in line] for line in lines)
    assert (padded[0], packed[0]) == ("padded", "packed")
    assert int(packed[1]) < 0.9 * int(padded[1])
    assert float(packed[7]) < 1e-5


def test_losses_that_differ_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LOSS_LIMIT", -1.0)
    assert main([*TINY, "--threads", "1", "--device", "cpu"]) == 1


def test_batches_hold_text_alone_and_videos_of_their_own() -> None:
    settings = Batches(conversations=10)
    visual, text = build_batch(settings, packing.Sizes(width=16), 0, torch.device("cpu"))
    with_video = text.video_index[:, 0] != TEXT_ONLY
    assert with_video.sum() == 8
    assert torch.equal((text.input_ids == VIDEO_PLACEHOLDER).sum(dim=1), with_video.long())
    assert len(set(text.text_mask.sum(dim=1).tolist())) > 5
    assert visual.tokens.shape == (10, settings.visual_tokens, 16)
