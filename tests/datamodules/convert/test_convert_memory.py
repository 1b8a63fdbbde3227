import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MEGABYTE = 10**6
MEASURED = """
import sys
from pathlib import Path
from datamodules.convert.__main__ import main
status = main(sys.argv[1:])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print("peak", int(peak.split()[1]) * 1024)
raise SystemExit(status)
"""


@pytest.mark.slow
def test_a_large_annotation_file_is_converted_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    filler = "what happens then " * 300  # few rows, so that little time is spent on each
    with path.open("w") as file:
        number = 0
        while file.tell() < 100 * MEGABYTE:
            turns = [{"from": "human", "value": f"{number} {filler}"}, {"from": "gpt", "value": filler}]
            file.write((", " if number else "[") + json.dumps({"id": number, "conversations": turns}))
            number += 1
        file.write("]")
    finished = subprocess.run(
        [sys.executable, "-c", MEASURED, "llava", str(path), str(tmp_path / "out"), "--workers", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert f"{number:,} samples" in finished.stdout
    assert int(finished.stdout.split()[-1]) < 160 * MEGABYTE  # reading it whole takes more than twice the file's size
