"""A film of two hours takes little memory, whatever its size on disk."""

import io
import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from tests.fixtures_data import make_clip, natural_frames

ROOT = Path(__file__).resolve().parents[3]
BEFORE = 3 << 30  # bytes of the shard before the film, and of padding within it; both are holes on the disk

READING = """
import json, sys
from pathlib import Path
import torchvision_import
from datamodules.media import decoding_process
from datamodules.media.decoding import Decoding, MediaRequest
from datamodules.shards.media_range import MediaRange
from datamodules.media.media_reader import MediaReader
from datamodules.shards.schema import MediumFacts
from datamodules.shards.shard_reader import RawMedium
from datamodules.media.transforms import PixelOptions, PixelTransform
from datamodules.media.frame_sampling import FrameSampling

def peak_mb(pid):
    status = Path(f"/proc/{{pid}}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

reader = MediaReader(FrameSampling(num_frames=64), PixelTransform(PixelOptions(224), train=False))
media = MediaRange(Path({path!r}), {offset}, {size})
frames = reader.read(RawMedium("film a", media, "mp4", MediumFacts(None, None, {{}})), (0,))
(server,) = decoding_process._servers.values()
print(json.dumps([list(frames.frames.shape), frames.frame_ms.tolist(), peak_mb("self"), peak_mb(server._process.pid)]))
"""


def write_film(path: Path, minutes: int) -> tuple[int, int]:
    """Write a shard that holds a film: one minute in 30 frames a second again and again. Gives offset and size."""
    minute = make_clip(
        1800, width=320, height=240, fps=30, keyframe_interval=250, frames=natural_frames(1800, 240, 320)
    )
    target = io.BytesIO()
    with av.open(io.BytesIO(minute)) as source:
        template = source.streams.video[0]
        with av.open(target, "w", format="mp4") as output:
            stream = output.add_stream_from_template(template)
            for number in range(minutes):
                source.seek(0)
                for packet in source.demux(template):
                    if packet.dts is None:
                        continue
                    packet.pts += int(number * 60 / template.time_base)
                    packet.dts += int(number * 60 / template.time_base)
                    packet.stream = stream
                    output.mux(packet)
    with path.open("wb") as file:
        file.seek(BEFORE)
        file.write(target.getvalue())
        file.write((1).to_bytes(4, "big") + b"free" + BEFORE.to_bytes(8, "big"))  # a box that players pass over
        end = file.tell() - 16 + BEFORE
        file.truncate(end)
    return BEFORE, end - BEFORE


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_two_hours_at_64_frames_stay_under_600_mb(tmp_path: Path) -> None:
    offset, size = write_film(tmp_path / "film.tar", 120)
    assert size > BEFORE + 50 * 2**20
    code = READING.format(path=str(tmp_path / "film.tar"), offset=offset, size=size)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    shape, frame_ms, worker_mb, server_mb = json.loads(run.stdout)
    assert shape == [64, 3, 224, 224]
    assert frame_ms[0] == pytest.approx(7_200_000 / 128, abs=40)
    assert frame_ms[-1] == pytest.approx(7_200_000 * 127 / 128, abs=40)
    assert worker_mb + server_mb < 600, (worker_mb, server_mb)
    assert server_mb < 200
