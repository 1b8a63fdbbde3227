"""A benchmark while a model trains, for ``lightning_modules.monitoring.PeriodicEvaluation``."""

from pathlib import Path

from components.model import VideoLanguageModel
from components.step_evaluation import EvaluatedFigures, StepEvaluation
from datamodules.benchmarks.benchmark_config import load_benchmark
from membridge.evaluation.benchmark_report import build_report
from membridge.evaluation.benchmark_run import BenchmarkRun
from membridge.evaluation.item_answers import AskingSettings
from membridge.evaluation.score_tables import draw_shares


class BenchmarkEvaluation(StepEvaluation):
    """Scores by likelihood of the options, or also generates answers; writes no files.

    Args:
        benchmark: Name of a file in ``configs/benchmark``, or path of a YAML file.
        data: Folder of all benchmarks; every node must have it.
        most_items: Ask only so many questions, evenly spread; None: all.
        max_new_tokens: Longest generated answer; 0 = score by likelihood alone.
        at_once: Questions about a video that are answered at the same time.

    Raises:
        FileNotFoundError: The benchmark's YAML or a file of its questions is missing.
        ValueError: There is no question.
    """

    def __init__(
        self, benchmark: str, data: str, most_items: int | None = 200, max_new_tokens: int = 0, at_once: int = 8
    ) -> None:
        self.benchmark = load_benchmark(benchmark)
        self.benchmark.most_items = most_items
        root = Path(data) / self.benchmark.folder
        self.items = self.benchmark.chosen_items(self.benchmark.read(root).items)
        if not self.items:
            raise ValueError(f"{benchmark} has no question in {root}")
        self.videos = root / self.benchmark.videos
        self.asking = AskingSettings(max_new_tokens, at_once)

    def __call__(self, model: VideoLanguageModel, step: int) -> EvaluatedFigures:
        """Ask everything; questions about a video that plays are asked about the video up to then.

        Returns:
            ``SCORER/all`` and the official scores, and a chart. Questions without answer count as wrong.
        """
        run = BenchmarkRun(self.benchmark, self.items, self.videos, Path(), {}, self.asking, "clip")
        report = build_report(self.benchmark, self.items, run.lines(model), {})
        scalars = {}
        for scorer, found in report["scores"].items():
            scalars[f"{scorer}/all"] = found["overall"]["value"]
            scalars |= {f"{scorer}/{name}": value for name, value in found["official"].items()}
        return EvaluatedFigures(scalars, {"scores": draw_shares(report)})
