"""Every part runs on an accelerator that is not CUDA, with the CPU's numbers, and the host hardly ever waits for it."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.config_models import CONFIGS, build_module_of, make_inputs_of
from tests.fixtures_models import make_quickstart_parts

pytestmark = pytest.mark.slow
ROOT = CONFIGS.parent
NAMES = [
    *("quickstart_pixels.yaml", "quickstart.yaml", "model/tiny.yaml"),
    *sorted(f"ablation/{path.name}" for path in (CONFIGS / "ablation").glob("*.yaml")),
]
MOVED = ["ablation/packed_conversations.yaml", "ablation/retrieved_readout.yaml", "ablation/scene_tilling.yaml"]
CONFIGS_OF_A_CHILD = 12  # a start takes some seconds, and all of them more than a test may take
LIMIT = 1e-4  # kernels add in another order
CUTS = {name: 1 for name in NAMES if "scene_tilling" in name or "static_merge" in name}  # similarities of frames
NUMBER_OF_TOKENS = {  # masks of visual tokens, whose number depends on the video
    f"ablation/{name}.yaml": 1
    for name in (
        *("all_tokens", "frame_dropout", "grid_memory", "grid_memory_budget", "last_segment_readout"),
        *("memory_and_frames", "memory_and_last_segment_readout", "no_retrieval", "published_bridge"),
        *("last_frames", "uniform_frames", "random_frames", "novel_frames", "similarity_merge", "summary_memory"),
        *(
            "last_16_frames",
            "segment_merge",
            "context_token",
            "frame_queries",
            "slow_fast",
            "thumbnail_and_samples",
            "question_guided_pooling",
            "short_and_long_memory",
            "flash_memory",
            "cluster_and_detail_memory",
            "carrier_memory",
        ),
    )
}
OTHERS = {
    # transformers searches a row for its conversations, and the first step checks that they are separated.
    "ablation/packed_conversations.yaml": 2,
    # How many tokens are left of each of three segments; with token_drop, also which videos have begun after the first.
    "ablation/token_drop.yaml": 4,
    # Frames are chosen on the host, by features, scores and times; transformers looks twice at the mask of the words.
    "ablation/diverse_frames.yaml": 3,
    **{f"ablation/{name}.yaml": 5 for name in ("best_frames", "adaptive_frames", "frames_by_share")},
    **{f"ablation/{name}.yaml": 6 for name in ("determinantal_frames", "sequential_determinantal_frames", "key_clips")},
    "ablation/norm_top_merge.yaml": 3,
    # Where to cut, and how many tokens are left of each of two segments.
    "ablation/static_and_moving.yaml": 3,
    "ablation/anchor_merge.yaml": 1,  # where to cut
}
WAITS = CUTS | NUMBER_OF_TOKENS | OTHERS
"""Times that the host waits for the device in a training step; 0 for the other configs."""
Results = dict[str, tuple[dict[str, float], list[list[str]], str]]
_results: dict[int, Results] = {}


def run_in_child(folder: Path, *arguments: str) -> Results:
    """What ``tests.device_runs`` writes."""
    command = [sys.executable, "-m", "tests.device_runs", str(folder), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return dict(json.loads((folder / "results.json").read_text(encoding="utf-8")))


def group_of(name: str) -> int:
    """The configs of one group run in one child."""
    return NAMES.index(name) // CONFIGS_OF_A_CHILD


@pytest.fixture
def results(name: str, tmp_path_factory: pytest.TempPathFactory) -> Results:
    group = group_of(name)
    if group not in _results:
        names = [each for each in NAMES if group_of(each) == group]
        _results[group] = run_in_child(tmp_path_factory.mktemp("device"), *names)
    return _results[group]


@pytest.fixture(scope="module")
def results_of_moved_inputs(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_in_child(tmp_path_factory.mktemp("moved"), "--move-inputs", *MOVED)


every_config = pytest.mark.parametrize(
    # A group stays in one of the processes that run the tests, or each of them would run the child.
    "name",
    [pytest.param(name, marks=pytest.mark.xdist_group(f"device-{group_of(name)}")) for name in NAMES],
)


@every_config
def test_config_gives_the_numbers_of_the_cpu(name: str, results: Results) -> None:
    differences, _, error = results[name]
    assert error == ""
    assert len(differences) > 10
    assert {what: size for what, size in differences.items() if not size < LIMIT} == {}


@every_config
def test_training_step_waits_for_the_device_only_where_it_must(name: str, results: Results) -> None:
    _, waits, error = results[name]
    assert error == ""
    found = Counter(f"{operation} in {line}, called in {called}" for operation, line, called in waits)
    assert len(waits) == WAITS.get(name, 0), found


@pytest.mark.parametrize("name", MOVED)
def test_strategy_may_move_the_inputs_of_every_part(name: str, results_of_moved_inputs: Results) -> None:
    differences, _, error = results_of_moved_inputs[name]
    assert error == ""
    assert {what: size for what, size in differences.items() if not size < LIMIT} == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in WAITS])
def test_training_step_never_waits_for_cuda(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_quickstart_parts(tmp_path)
    monkeypatch.chdir(tmp_path)
    module = build_module_of(name)
    module.built.train().to("cuda")
    optimizer = module.configure_optimizers()
    batch = module.transfer_batch_to_device(make_inputs_of(module.built), torch.device("cuda"), 0)
    for mode in ("default", "error"):  # the first step also prepares kernels
        torch.cuda.set_sync_debug_mode(mode)
        try:
            module.built(batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")
