"""The mixtures of LLaVA-Video-178K for the Memory-Augmented VLM take the rows that its training takes."""

import math
from collections import Counter
from pathlib import Path

import pytest

from tests.datamodules.convert.conversions import convert, llava_item, read_samples, write_json, write_media

MIXTURES = Path(__file__).resolve().parents[3] / "configs/data"
USED = {
    "llava_video_178k_short.yaml": {
        "0_30_s_academic_v0_1": {"oe": 5, "cap": 5},
        "30_60_s_youtube_v0_1": {"oe": 15, "cap": 15},
        "30_60_s_academic_v0_1": {"cap": 15},
    },
    "llava_video_178k_long.yaml": {
        "1_2_m_youtube_v0_1": {"oe": 30, "cap": 30},
        "1_2_m_academic_v0_1": {"oe": 30, "cap": 30},
        "1_2_m_nextqa": {"oe": 30},
        "1_2_m_activitynetqa": {"oe": 30},
        "2_3_m_academic_v0_1": {"oe": 50, "cap": 50},
        "2_3_m_youtube_v0_1": {"oe": 50, "cap": 50},
        "2_3_m_nextqa": {"oe": 50},
        "2_3_m_activitynetqa": {"oe": 50},
    },
}
"""Per cent of the rows of every subset's file of open questions and of captions."""


def file_name(subset: str, category: str) -> str:
    """Name of a subset's file, as it was published."""
    if not subset.endswith("_v0_1"):
        return f"{subset}_{category}_qa_processed"
    return f"{subset}_cap_processed" if category == "cap" else f"{subset[:-5]}_{category}_v0_1_qa_processed"


def write_subset(folder: Path, categories: dict[str, int], smallest: int) -> dict[str, int]:
    """Write a subset with a file of each category, one row about a clip of its own, and multiple-choice questions.

    Returns:
        Rows of every file by its label.
    """
    sizes = {}
    write_media(folder, "source/a.mp4")
    for number, category in enumerate([*categories, "mc"]):
        name = file_name(folder.name, category)
        size = smallest + 13 * number
        rows = [llava_item(f"<image>\n{name} {row} ?", video="source/a.mp4") for row in range(size)]
        write_json(folder / f"{name}.json", rows)
        sizes[f"{folder.name}/{name}"] = size
    return sizes


@pytest.mark.parametrize("name", list(USED))
def test_mixture_takes_the_first_rows_of_every_file_rounded_up(name: str, tmp_path: Path) -> None:
    published, expected = tmp_path / "LLaVA-Video-178K", Counter[str]()
    for number, (subset, categories) in enumerate(USED[name].items()):
        sizes = write_subset(published / subset, categories, smallest=7 + 4 * number)
        for category, percent in categories.items():
            label = f"{subset}/{file_name(subset, category)}"
            expected[label] = math.ceil(percent * sizes[label] / 100)
    convert("mixture", MIXTURES / name, tmp_path / "out", "--annotation-root", published)
    samples = read_samples(tmp_path / "out")
    rows = [each.id.split("#") for sample in samples for each in sample.record.conversations]
    assert Counter(label for label, _ in rows) == expected
    assert all(int(row) < expected[label] for label, row in rows)  # the first ones
    assert len(samples) == len(USED[name])  # conversations about one video are in one sample
    categories_of = {each.category for sample in samples for each in sample.record.conversations}
    assert categories_of == {"open_ended", "caption"}


def test_annotation_root_that_does_not_exist_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture = MIXTURES / "llava_video_178k_short.yaml"
    convert("mixture", mixture, tmp_path / "out", "--annotation-root", tmp_path / "gone", status=2)
    assert "--annotation-root" in capsys.readouterr().err
