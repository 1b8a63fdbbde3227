from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from benchmarks import token_drop
from tests.benchmarks.printed_tables import rows_of
from tests.fixtures_data import make_record, write_shard

TINY = ["--videos", "2", "--rounds", "1", "--thresholds", "0.5", "--ratios", "0.5", "--segment-frames", "2"]


@pytest.fixture(autouse=True)
def small_videos(monkeypatch: pytest.MonkeyPatch) -> object:
    before = torch.get_num_threads()
    monkeypatch.setattr(token_drop, "_MADE", (5, 4, 16))
    yield
    torch.set_num_threads(before)


def test_table_has_a_row_for_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    token_drop.main(TINY)
    found = rows_of(capsys.readouterr().out)
    assert list(found)[1:] == ["no reducer", "threshold 0.5", "threshold 0.5, last kept", "ratio 0.5"]
    assert found["no reducer"][0] == "100.0%"
    assert found["no reducer"][2] == "1.00"
    assert found["ratio 0.5"][0] == "60.0%"  # 4 of the first frame, 2 of each of the other four
    assert float(found["threshold 0.5"][0].rstrip("%")) < 100


def test_videos_are_read_from_feature_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = torch.randn(1, 5, 16).expand(3, -1, -1).contiguous()
    data = save({"features": still, "frame_ms": torch.arange(3) * 500})
    text = ("text", make_record([("say hello", "hello")], media=False), None, None)
    write_shard(tmp_path / "mixed-000000.tar", [text, ("clip", make_record(), data, "safetensors")])
    token_drop.main([*TINY, "--shards", str(tmp_path / "*.tar")])
    printed = capsys.readouterr().out
    assert "1 videos, 3 frames of 4 patches, width 16" in printed
    assert rows_of(printed)["threshold 0.5"][0] == "50.0%"  # the first frame, and one patch of each of the others


def test_shards_without_features_are_refused(tmp_path: Path) -> None:
    record = make_record([("say hello", "hello")], media=False)
    write_shard(tmp_path / "text-000000.tar", [("text", record, None, None)])
    with pytest.raises(ValueError, match="have no cached features"):
        token_drop.main([*TINY, "--shards", str(tmp_path / "*.tar")])
