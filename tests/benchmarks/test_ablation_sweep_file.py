"""The YAML file of a sweep: what is wrong in it is named before anything runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from apps.commands import ROOT
from benchmarks.ablation import __main__ as command
from benchmarks.ablation.__main__ import main
from benchmarks.ablation.runs import Run, runs_of
from benchmarks.ablation.sweep_file import read_sweep
from benchmarks.ablation.training import set_of, training_command
from tests.benchmarks.ablation_files import ARMS, small_sweep, sweep_content, write_sweep


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/ablation").glob("*.yaml")), ids=lambda path: path.name)
def test_every_sweep_of_the_project_can_be_read(path: Path) -> None:
    sweep = read_sweep(path)
    assert sweep.reference in sweep.arms
    assert not set(sweep.left_out) & set(sweep.arms)
    assert sweep.steps > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "has no key 'arm': do you mean arms?"),
        ({"colour": 1}, "has no key 'colour': known are heading"),
        ({"reference": "other"}, "the reference 'other' is no arm; there are both, mean_pooling, grid_memory"),
        ({"task": "chess"}, "there is no task 'chess'; choose one of quickstart, three_tasks"),
        ({"set": {}}, "set has no trainer.max_steps"),
        ({"budget": {"tokens": 3}}, "budget has no key 'tokens': do you mean visual_tokens?"),
        ({"arms": {"both": {"config": []}}}, "the arm both has no key 'config': do you mean configs?"),
        ({"arms": {"both": ["a.yaml"]}}, "write `{configs: [...], set: {...}}`"),
        ({"arms": {"both": {"configs": "a.yaml"}}}, "the arm both: configs is 'a.yaml'; write a list of files"),
        ({"arms": {"both": {"set": "a"}}}, "the arm both: set is 'a'; write a mapping"),
        ({"seeds": 3}, "seeds is 3; write a list with at least one entry"),
        ({"seeds": []}, "seeds is []; write a list"),
        ({"jobs": 0}, "jobs is 0; write a whole number from 1"),
        ({"hours": "two"}, "hours is 'two'; write a number"),
        ({"arms": ["both"]}, "arms is ['both']; write a mapping"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        small_sweep(tmp_path, **changes)


def test_missing_keys_and_files_are_named(tmp_path: Path) -> None:
    content = sweep_content(tmp_path)
    del content["arms"]
    path = tmp_path / "sweep.yaml"
    path.write_text(str(content))  # YAML reads Python's form of a mapping
    with pytest.raises(ValueError, match="has no arms"):
        read_sweep(path)
    with pytest.raises(FileNotFoundError, match=r"names configs/ablation/nothing\.yaml, which is not there"):
        small_sweep(tmp_path, arms={"both": {"configs": ["configs/ablation/nothing.yaml"]}})
    with pytest.raises(FileNotFoundError, match="there is no sweep"):
        read_sweep(tmp_path / "other.yaml")


def test_settings_of_an_arm_win_over_those_of_the_sweep_and_of_the_task(tmp_path: Path) -> None:
    arms = {"both": {**ARMS["both"], "set": {"trainer.max_steps": 3, "data.tokenizer": "words"}}}
    (run,) = runs_of(small_sweep(tmp_path, arms=arms))
    assert set_of(run)["trainer.max_steps"] == 3
    assert set_of(run)["data.tokenizer"] == "words"
    words = training_command(run)
    assert words[words.index("--data.loading.batch_size") + 1] == "4"
    assert words[words.index("--data.tokenizer") + 1] == "words"
    assert words[words.index("--data.validation") + 1] == "null"


def test_settings_that_train_py_would_refuse_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    arms = {**ARMS, "other": {"set": {"model.bridge.init_args.num_memori": 3}}}
    file = str(write_sweep(tmp_path, arms=arms))
    with pytest.raises(ValueError, match=r"train.py would refuse this:\nother: .*num_memor"):
        main(["-c", file, "--only", "train", "--arms", "both", "other"])


def test_every_arm_comes_once_with_the_first_seed_before_the_second(tmp_path: Path) -> None:
    sweep = small_sweep(tmp_path, seeds=[4, 5])
    names = [(run.arm.name, run.seed) for run in runs_of(sweep)]
    assert names == [(name, seed) for seed in (4, 5) for name in ARMS]
    shares = [runs_of(sweep)[task::4] for task in range(4)]  # as the tasks of an array take them
    assert sorted((run.arm.name, run.seed) for share in shares for run in share) == sorted(names)


def test_unknown_arms_and_tasks_of_an_array_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_sweep(tmp_path))
    with pytest.raises(ValueError, match="has no arm chess; there are both"):
        main(["-c", path, "--arms", "chess", "--only", "train"])
    with pytest.raises(SystemExit):
        main(["-c", path, "--task", "2", "--of", "2"])
    assert "--task must be from 0 to 1 with --of 2, got 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["-c", path, "--jobs", "0"])
    assert "--jobs must be at least 1, got 0" in capsys.readouterr().err


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path, Path]]:
    """Folder of the runs, page and picture of every report; nothing is prepared, trained or written."""
    found: list[tuple[Path, Path, Path]] = []

    def write_report(runs: list[Run], page: Path, picture: Path) -> str:
        found.append((runs[0].sweep.runs, page, picture))
        return ""

    monkeypatch.setattr(command, "_prepare", lambda *_: True)
    monkeypatch.setattr(command, "check_command_lines", lambda runs: None)
    monkeypatch.setattr(command, "train_runs", lambda runs, **_: [])
    monkeypatch.setattr(command, "measure_runs", lambda runs: [])
    monkeypatch.setattr(command, "write_report", write_report)
    return found


def test_what_did_not_fail_is_reported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: list[tuple[Path, Path, Path]]
) -> None:
    path = str(write_sweep(tmp_path))
    assert main(["-c", path]) == 0
    monkeypatch.setattr(command, "train_runs", lambda runs, **_: runs[:1])
    assert main(["-c", path]) == 1
    assert len(reported) == 2


def test_only_complete_sweeps_of_the_project_are_published(
    tmp_path: Path, reported: list[tuple[Path, Path, Path]]
) -> None:
    ours, other = str(ROOT / "benchmarks/ablation/quickstart.yaml"), str(write_sweep(tmp_path))
    main(["-c", ours])
    main(["-c", ours, "--short"])
    main(["-c", other])
    main(["-c", other, "--results", "page.md", "--picture", "plot.png"])
    runs, short, elsewhere = Path("runs/ablation/quickstart"), Path("runs/ablation/quickstart_short"), tmp_path / "runs"
    assert reported == [
        (runs, Path("docs/RESULTS.md"), Path("docs/images/ablation_quickstart.png")),
        (short, short / "RESULTS.md", short / "ablation_quickstart.png"),
        (elsewhere, elsewhere / "RESULTS.md", elsewhere / "ablation_sweep.png"),
        (elsewhere, Path("page.md"), Path("plot.png")),
    ]
