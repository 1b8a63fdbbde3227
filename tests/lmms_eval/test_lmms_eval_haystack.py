"""The haystack test in lmms-eval, from the command that writes its files to the scores."""

import json
from pathlib import Path

import pytest

from apps.write_haystack import main as write_haystack
from membridge.evaluation.benchmark_run import BenchmarkRun
from membridge.evaluation.item_answers import AskingSettings
from membridge.haystack_test.haystack_config import load_haystack_test
from tests.documentation import ROOT
from tests.lmms_eval.conftest import Made
from tests.lmms_eval.own_environment import OwnEnvironment

pytestmark = [pytest.mark.slow, pytest.mark.lmms_eval, pytest.mark.timeout(900)]

TASKS = ROOT / "configs/lmms_eval/niavh"
CONFIG = {
    "class_path": "datamodules.haystack.haystack_benchmark.HaystackBenchmark",
    "init_args": {"grid": {"lengths_s": [2, 4], "depths": [0, 1]}, "all_orders": True},
}


def test_answers_and_scores_are_those_of_the_own_evaluation_on_the_same_files(
    made: Made, own: OwnEnvironment, tmp_path: Path
) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(json.dumps(CONFIG))
    write_haystack([str(config), str(own.folder / "niavh"), "--size", "64"])
    benchmark = load_haystack_test(config)
    items = benchmark.read().items
    run = BenchmarkRun(benchmark, items, own.folder / "niavh/videos", tmp_path / "own", {}, AskingSettings(16))
    run.answer(made.model)
    answers = run.answers()

    names = sorted(path.stem for path in TASKS.glob("*.yaml"))
    assert names == ["niavh", "niavh_likelihood"]
    [finished] = own.evaluate([{"tasks": names, "folders": [str(TASKS)], "model_args": f"pretrained={made.folder}"}])
    assert finished["status"] == 0
    by_text, by_loss = (
        {sample["niavh_questions"]["id"]: sample["niavh_questions"] for sample in finished["samples"][name]}
        for name in names
    )
    assert list(by_text) == list(by_loss) == [item.id for item in items]
    for item in items:
        assert by_text[item.id]["answer"] == answers[item.id]["text"].split("\n\n")[0]
        losses = by_loss[item.id]["answer"]
        assert losses == pytest.approx([-value for value in answers[item.id]["likelihoods"]], abs=1e-5)
        assert by_loss[item.id]["score"] == float(losses.index(min(losses)) == item.answer)
        assert by_loss[item.id]["depth"] == item.labels["depth"]
    scores = [each["score"] for each in by_loss.values()]
    results = finished["results"]["niavh_likelihood"]
    assert 0 < sum(scores) < len(scores)
    assert results["niavh_questions,none"] == pytest.approx(sum(scores) / len(scores))
    groups = {item.group for item in items}
    right = [all(by_loss[item.id]["score"] for item in items if item.group == group) for group in groups]
    assert results["niavh_videos,none"] == pytest.approx(sum(right) / len(right))
    assert "niavh_questions_stderr_clustered,none" in results
