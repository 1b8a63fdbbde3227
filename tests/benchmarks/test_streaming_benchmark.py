from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from benchmarks.streaming import __main__ as streaming
from benchmarks.streaming.long_stream import memories, shuffled
from components.encoders.cached import CachedFeatures
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from tests.benchmarks.printed_tables import all_rows
from tests.fixtures_data import make_record, write_shard
from tests.fixtures_models import NUM_PATCHES, VISION_WIDTH, PartFolders, make_bridge, make_frames, make_model

TINY = ["--frames", "36", "--capacity", "3", "--window-frames", "40", "--rounds", "1", "--session-frames", "2"]


@pytest.fixture
def command(folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """The command line for a tiny model that admits every segment, and features of two videos."""
    before = torch.get_num_threads()
    bridge = partial(make_bridge, recurrence="selective")
    model = make_model(folders, encoder=partial(CachedFeatures, VISION_WIDTH, NUM_PATCHES), bridge=bridge)
    torch.nn.init.constant_(model.bridge.update.of_memory.bias, 9.0)
    encoder = HuggingFaceVisionEncoder(folders.encoder, layer=-1)
    monkeypatch.setattr(streaming, "load_model", lambda _path: model)
    monkeypatch.setattr(streaming, "encoder_and_frames", lambda: (encoder, make_frames(9)))
    videos = [torch.randn(7, 1 + NUM_PATCHES, VISION_WIDTH) for _ in range(2)]
    data = [save({"features": each, "frame_ms": torch.arange(7) * 500}) for each in videos]
    records = [(f"v{number}", make_record(), each, "safetensors") for number, each in enumerate(data)]
    write_shard(tmp_path / "videos-000000.tar", records)
    yield [*TINY, "--shards", str(tmp_path / "videos-*.tar")]
    torch.set_num_threads(before)


def test_tables_have_every_memory_at_every_point_and_every_number_of_sessions(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(streaming, "COST_LIMIT", 1e9)
    page = tmp_path / "page.md"
    page.write_text("| x | - | y | - | - | [Streaming](#streaming-at-length) |\n", encoding="utf-8")
    assert streaming.main([*command, "--results", str(page)]) == 0
    rows = all_rows(capsys.readouterr().out)
    of_memory = {name: [row[1:] for row in rows if row[0] == name] for name in ("selective", "fixed capacity")}
    assert [row[0] for row in of_memory["selective"]] == ["1", "10", "36"]
    grown, bounded = ([int(row[3].replace(",", "")) for row in own] for own in of_memory.values())
    assert grown[2] > 2 * grown[1] > 0
    assert bounded[2] == bounded[1] < grown[2]
    sessions = [row for row in rows if row[0] in ("1", "4", "16")]
    assert [row[0] for row in sessions] == ["1", "4", "16"]
    assert all(row[4] == "yes" and float(row[2]) > 0 for row in sessions)
    written = page.read_text(encoding="utf-8")
    assert "fixed capacity" in written.splitlines()[0]
    assert all_rows(written)[1:] == rows


def test_a_cost_that_grows_fails_the_run(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "COST_LIMIT", 0.0)
    assert streaming.main(command) == 1


def test_shards_without_features_are_refused(command: list[str], tmp_path: Path) -> None:
    record = make_record([("say hello", "hello")], media=False)
    write_shard(tmp_path / "text-000000.tar", [("text", record, None, None)])
    with pytest.raises(ValueError, match="have no cached features: run `make quickstart`"):
        streaming.main([*command, "--shards", str(tmp_path / "text-*.tar")])


def test_another_memory_is_refused(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match="a selective RecurrentMemoryBridge"):
        memories(make_model(folders), 3)


def test_every_pass_shows_every_frame_once_and_passes_differ() -> None:
    videos = list(torch.arange(24.0).view(6, 4, 1, 1))
    frames = shuffled(videos)
    passes = [[next(frames).item() for _ in range(24)] for _ in range(3)]
    assert [sorted(each) for each in passes] == [list(range(24))] * 3
    assert len({tuple(each) for each in passes}) > 1
