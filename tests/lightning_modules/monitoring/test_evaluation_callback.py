"""Evaluations during training: when they run, what they leave as it was, and that every strategy can."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.model import VideoLanguageModel
from components.step_evaluation import EvaluatedFigures, StepEvaluation
from lightning_modules.monitoring import PeriodicEvaluation, ThroughputMonitor
from membridge.evaluation.benchmark_evaluation import BenchmarkEvaluation
from tests.fixtures_models import PartFolders, make_batch, make_unbuilt_module
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.monitoring.evaluate_with_strategies import evaluated_run
from tests.membridge.evaluation.made_benchmark import OPTIONS, write_clips
from tests.process_group import one_group_at_a_time, run_processes


class Steps(StepEvaluation):
    """Remembers when it was called, and draws random numbers."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, model: VideoLanguageModel, step: int) -> EvaluatedFigures:
        assert not model.training
        assert not any(part.training for part in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
        self.steps.append(step)
        return EvaluatedFigures({"likelihood/all (strict)": 0.5}, {"heat map, a": Figure()})


def fit(folders: PartFolders, folder: Path, callbacks: list[Any], **changes: Any) -> Any:
    torch.manual_seed(0)
    module = make_unbuilt_module(folders)
    trainer = make_trainer(folder, 6, callbacks=callbacks, **changes)
    trainer.fit(module, make_loader([make_batch(folders)] * 12))
    return module


def test_it_runs_every_n_steps_and_not_once_a_batch(folders: PartFolders, tmp_path: Path) -> None:
    evaluation = Steps()
    fit(folders, tmp_path, [PeriodicEvaluation(evaluation, 2)], accumulate_grad_batches=2)
    assert evaluation.steps == [2, 4, 6]


def test_without_a_number_of_steps_it_does_not_run_in_training(folders: PartFolders, tmp_path: Path) -> None:
    evaluation = Steps()
    fit(folders, tmp_path, [PeriodicEvaluation(evaluation, None)])
    assert evaluation.steps == []


@pytest.mark.parametrize("command", ["validate", "test"])
def test_it_runs_once_after_validate_and_test(folders: PartFolders, tmp_path: Path, command: str) -> None:
    evaluation = Steps()
    trainer = make_trainer(tmp_path, callbacks=[PeriodicEvaluation(evaluation, None)])
    getattr(trainer, command)(make_unbuilt_module(folders), make_loader([make_batch(folders)] * 2), verbose=False)
    assert evaluation.steps == [0]


def test_training_continues_exactly_as_without_it(folders: PartFolders, tmp_path: Path) -> None:
    plain = fit(folders, tmp_path, [])
    evaluated = fit(folders, tmp_path, [PeriodicEvaluation(Steps(), 1)])
    assert {part: module.training for part, module in plain.named_modules()} == {
        part: module.training for part, module in evaluated.named_modules()
    }
    for (name, first), second in zip(plain.named_parameters(), evaluated.parameters(), strict=True):
        assert torch.equal(first, second), name


def test_values_and_pictures_are_in_tensorboard_by_names_that_every_logger_takes(
    folders: PartFolders, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="run")
    fit(folders, tmp_path, [PeriodicEvaluation(Steps(), 3, "haystack")], logger=logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert [event.step for event in events.Scalars("haystack/likelihood/all_strict")] == [3, 6]
    assert "haystack/heat_map_a" in events.Tags()["images"]


def test_its_time_is_not_counted_as_waiting_for_data(folders: PartFolders, tmp_path: Path) -> None:
    class Slow(Steps):
        def __call__(self, model: VideoLanguageModel, step: int) -> EvaluatedFigures:
            time.sleep(0.5)
            return super().__call__(model, step)

    logger = RecordingLogger()
    callbacks = [ThroughputMonitor(), PeriodicEvaluation(Slow(), 1)]
    fit(folders, tmp_path, callbacks, logger=logger, log_every_n_steps=3)
    waits = [v["step_seconds/waiting_for_data"] for _, v in logger.logged if "step_seconds/waiting_for_data" in v]
    assert waits
    assert max(waits) < 0.3


def test_a_benchmark_is_evaluated(folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clips(tmp_path / "data/made/videos", 2)
    rows = [{"id": f"{n}", "video": f"clip{n}", "question": "which ?", "options": OPTIONS, "answer": n} for n in (0, 1)]
    (tmp_path / "data/made/questions.json").write_text(json.dumps(rows))
    (tmp_path / "made_reader.py").write_text(READER)
    arguments = {"questions": "questions.json", "folder": "made", "chosen_by": "text"}
    (tmp_path / "made.yaml").write_text(json.dumps({"class_path": "made_reader.Made", "init_args": arguments}))
    monkeypatch.syspath_prepend(str(tmp_path))
    logger = RecordingLogger()
    evaluation = BenchmarkEvaluation(str(tmp_path / "made.yaml"), str(tmp_path / "data"), max_new_tokens=1)
    fit(folders, tmp_path, [PeriodicEvaluation(evaluation, 6, "made")], logger=logger)
    [values] = [values for _, values in logger.logged if "made/likelihood/all" in values]
    assert values["made/likelihood/all"] in (0.0, 0.5, 1.0)
    assert "made/generated_lenient/all" in values


READER = """
from datamodules.benchmarks.benchmark import Benchmark
from datamodules.benchmarks.item import BenchmarkFiles, BenchmarkItem, MediaPart
from datamodules.benchmarks.table_rows import read_rows


class Made(Benchmark):
    def read(self, root):
        rows = read_rows(root / self.questions)
        return BenchmarkFiles([self.item(**row) for row in rows], [])

    def item(self, id, video, question, options, answer):
        return BenchmarkItem(id, (MediaPart(video),), question, tuple(options), answer)
"""


def test_a_wrong_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1"):
        PeriodicEvaluation(Steps(), 0)


@pytest.mark.slow
@one_group_at_a_time
def test_two_ranks_find_what_one_finds_under_every_strategy(folders: PartFolders, tmp_path: Path) -> None:
    strategies = ["ddp", "fsdp2", "zero1", "zero3"]
    alone = evaluated_run("single_device", folders, tmp_path, 0, 1)
    unevaluated = evaluated_run("single_device", folders, tmp_path, 0, 1, callbacks=[])
    assert alone["losses"] == unevaluated["losses"]
    arguments = [",".join(strategies), *folders, str(tmp_path)]
    run_processes("tests.lightning_modules.monitoring.evaluate_with_strategies", arguments, 2)
    assert {curve.split("/")[0] for _, curve, _ in alone["found"]} == {"HaystackEvaluation", "ReadingByTime"}
    assert {step for step, _, _ in alone["found"]} == {2, 4}
    for strategy in strategies:
        for rank in range(2):
            found = json.loads((tmp_path / f"{strategy}-{rank}.json").read_text(encoding="utf-8"))
            assert found["found"] == alone["found"], (strategy, rank)
