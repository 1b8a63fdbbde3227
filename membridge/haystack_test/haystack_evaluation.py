"""The haystack test while a model trains, for ``lightning_modules.monitoring.PeriodicEvaluation``."""

from collections.abc import Sequence
from pathlib import Path

from components.model import VideoLanguageModel
from components.step_evaluation import EvaluatedFigures, StepEvaluation
from membridge.evaluation.item_answers import AskingSettings
from membridge.haystack_test.backgrounds import Background, ClipBackground, MadeBackground
from membridge.haystack_test.haystack_config import haystack_config_path, load_haystack_test
from membridge.haystack_test.haystack_run import HaystackRun, usual_reading
from membridge.haystack_test.heat_map import draw_heat_map, heat_map, scored_items


class HaystackEvaluation(StepEvaluation):
    """Scores by likelihood of the options, or also generates answers; writes no files.

    Args:
        config: Name of a file in ``configs/niavh``, or path of a YAML file.
        clips: Video files of the haystack, which every node must have; made up by default.
        max_new_tokens: Longest generated answer; 0 = score by likelihood alone.
        at_once: Questions about a video that are answered at the same time.

    Raises:
        FileNotFoundError: The config or a clip is missing.
        ValueError: The config does not describe a haystack test.
    """

    def __init__(
        self, config: str = "training", clips: Sequence[str] = (), max_new_tokens: int = 0, at_once: int = 8
    ) -> None:
        self.benchmark = load_haystack_test(haystack_config_path(config))
        made_up = MadeBackground(self.benchmark.seed)
        self.background: Background = ClipBackground([Path(clip) for clip in clips]) if clips else made_up
        self.asking = AskingSettings(max_new_tokens, at_once)

    def __call__(self, model: VideoLanguageModel, step: int) -> EvaluatedFigures:
        """Ask everything; see ``StepEvaluation``.

        Returns:
            ``SCORER/SCORE`` for the shares of right videos, and a heat map for each scorer.
        """
        items = self.benchmark.read().items
        reading = usual_reading(model)
        run = HaystackRun(self.benchmark, items, self.background, Path(), {}, self.asking, reading)
        lines = run.lines(model)
        values = heat_map(items, lines)
        scalars = {
            f"{scorer}/{name}": share
            for scorer in values["scorers"]
            for name, share in self.benchmark.summary(scored_items(items, lines, scorer)).items()
        }
        figures = {f"heat map, {scorer}": draw_heat_map(values, scorer) for scorer in values["scorers"]}
        return EvaluatedFigures(scalars, figures)
