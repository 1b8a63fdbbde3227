import pytest
import torch

from benchmarks import scene_tilling
from benchmarks.scene_tilling import class_vectors, main, similarity_curves
from components.segmenters.depth import adjacent_similarity

TINY = ["--frames", "60", "--videos", "2", "--dim", "8", "--repeats", "1", "--clock", "cpu"]


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_table_has_a_row_for_every_form_and_curve(capsys: pytest.CaptureFixture[str]) -> None:
    main(TINY)
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| t")]
    forms = ("top-k (k=3)", "threshold (alpha=0.5)")
    assert [row[:2] for row in rows] == [[form, kind] for form in forms for kind in ("random", "monotone", "constant")]
    assert all(float(cell) > 0 for row in rows for cell in row[2:])


def test_ten_thousand_frames_take_at_most_a_millisecond_from_the_similarity(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--frames", "10000", "--dim", "4", "--repeats", "60", "--clock", "cpu"]) == 0
    assert "from the similarity: met" in capsys.readouterr().out


def test_a_missed_limit_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scene_tilling, "LIMIT_MS", 0.0)
    assert main(TINY) == 1
    assert "from the similarity: MISSED" in capsys.readouterr().out


def test_curves_are_of_the_kind_that_they_are_called() -> None:
    for kind in ("random", "monotone", "constant"):
        of_vectors = adjacent_similarity(class_vectors(kind, 50, 8, "cpu"))
        for steps in (of_vectors.diff(), similarity_curves(kind, 1, 50, "cpu")[0].diff()):
            rising, falling = bool((steps > 1e-6).any()), bool((steps < -1e-6).any())
            assert (rising, falling) == {"random": (True, True), "monotone": (True, False), "constant": (False, False)}[
                kind
            ]
