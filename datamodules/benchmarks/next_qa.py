"""NExT-QA with several options (Xiao et al., 2021): causal, temporal and descriptive questions about short videos.

Source: the authors' ``test.csv`` (fields ``video, question, answer, qid, type, a0..a4``), or the same as Parquet.
"""

import json
from pathlib import Path

from datamodules.benchmarks.answer_pairing import identity_of
from datamodules.benchmarks.item import BenchmarkFiles, Problem
from datamodules.benchmarks.question_files import FileRow
from datamodules.benchmarks.question_table import QuestionTable


class NExTQA(QuestionTable):
    """Reads NExT-QA. A question's id is ``VIDEO_QID``, as ``qid`` is unique in its video only.

    ``map_vid_vidorID.json`` in the benchmark's folder, if it is there, names the file of every video, such as
    ``1164/3238737531``. Without it a video is ``3238737531.mp4``.
    """

    may_name_videos_by_number = True

    def read(self, root: Path) -> BenchmarkFiles:
        """Read all questions, and then the names of the files of the videos."""
        found = super().read(root)
        path = root / "map_vid_vidorID.json"
        if not path.is_file():
            return found
        try:
            names = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            return BenchmarkFiles(found.items, [*found.problems, Problem(path.name, f"it is no JSON ({error})")])
        if not isinstance(names, dict):
            return BenchmarkFiles(found.items, [*found.problems, Problem(path.name, "it is no object")])
        items = [
            item._replace(media=tuple(part._replace(path=str(names.get(part.path, part.path))) for part in item.media))
            for item in found.items
        ]
        return BenchmarkFiles(items, found.problems)

    def identity(self, row: FileRow) -> str | None:
        """``VIDEO_QID``."""
        video, number = row.values.get("video"), row.values.get("qid")
        if isinstance(video, str | int) and isinstance(number, str | int):
            return f"{video}_{number}"
        return identity_of(row)
