"""lmms-eval's own tasks, with their true prompts and parsers, on tiny data and without a network."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from components.interfaces import DecodingSettings
from membridge.asking import AskedQuestion, ask_about, open_timed
from tests.lmms_eval.conftest import Made
from tests.lmms_eval.own_environment import OwnEnvironment

pytestmark = [pytest.mark.nightly, pytest.mark.lmms_eval, pytest.mark.timeout(900)]

LETTER = "Answer with the option's letter from the given choices directly."
OPTIONS = ("red", "blue", "circle", "none")
LETTERED = [f"{letter}. {option}" for letter, option in zip("ABCD", OPTIONS, strict=True)]


class OfficialTask(NamedTuple):
    """A task of lmms-eval, and a document for each clip."""

    name: str
    folder: str  # of lmms-eval's tasks
    data: str  # name of the data set, and a part of it
    config: str
    split: str
    media: str  # below HF_HOME
    document: Mapping[str, Any]  # CLIP stands for the clip's name
    prompt: str
    metric: str
    max_new_tokens: int = 16


TASKS = [
    OfficialTask(
        name="videomme",
        folder="videomme",
        data="lmms-eval/Video-MME",
        config="videomme",
        split="test",
        media="videomme/data",
        document={
            "video_id": "1",
            "duration": "short",
            "domain": "Knowledge",
            "sub_category": "Astronomy",
            "url": "",
            "videoID": "CLIP",
            "question_id": "1-1",
            "task_type": "Counting Problem",
            "question": "which colour ?",
            "options": LETTERED,
            "answer": "B",
        },
        prompt="Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        f"which colour ?\nA. red\nB. blue\nC. circle\nD. none\n\n{LETTER}",
        metric="videomme_perception_score",
    ),
    OfficialTask(
        name="mlvu_dev",
        folder="mlvu",
        data="sy1998/MLVU_dev",
        config="default",
        split="test",
        media="mlvu",
        document={
            "video_name": "CLIP.mp4",
            "duration": 4.0,
            "question": "which colour ?\n(A) red\n(B) blue",
            "candidates": ["red", "blue"],
            "answer": "A",
            "task_type": "needle",
            "question_id": "1",
        },
        prompt="which colour ?\n(A) red\n(B) blue\nOnly give the best option.\nBest option: (",
        metric="mlvu_percetion_score",
    ),
    OfficialTask(
        name="nextqa_mc_test",
        folder="nextqa",
        data="lmms-eval/NExTQA",
        config="MC",
        split="test",
        media="nextqa/NExTVideo",
        document={
            "video": "CLIP",
            "frame_count": 8,
            "width": 96,
            "height": 84,
            "question": "which colour",
            "answer": 1,
            "qid": 0,
            "type": "CW",
            **{f"a{index}": option for index, option in enumerate([*OPTIONS, "yes"])},
        },
        prompt="which colour\nA. red\nB. blue\nC. circle\nD. none\nE. yes",
        metric="exact_match",
        max_new_tokens=4,  # the task names none: that of the model's own evaluation
    ),
    OfficialTask(
        name="egoschema_subset",
        folder="egoschema",
        data="lmms-eval/egoschema",
        config="Subset",
        split="test",
        media="egoschema/videos",
        document={
            "question_idx": "0",
            "question": "which colour ?",
            "video_idx": "CLIP",
            "option": [*LETTERED, "E. yes"],
            "answer": "1",
        },
        prompt=f"which colour ?\nA. red\nB. blue\nC. circle\nD. none\nE. yes\n{LETTER}",
        metric="score",
    ),
    OfficialTask(
        name="mvbench_action_antonym",
        folder="mvbench",
        data="OpenGVLab/MVBench",
        config="action_antonym",
        split="train",
        media="mvbench_video/ssv2_video_mp4",
        document={"video": "CLIP.mp4", "question": "which colour ?", "candidates": ["red", "blue"], "answer": "red"},
        prompt="Question:which colour ?\nOption:\n(A) red\n(B) blue\nOnly give the best option.\n",
        metric="mvbench_accuracy",
    ),
]
BY_LIKELIHOOD = "egoschema_subset_mcppl"


def write_data(task: OfficialTask, own: OwnEnvironment, clips: Sequence[Path]) -> None:
    """A data set in the working directory, which wins over the hub's, and its videos where the task looks for them."""
    data = own.folder / task.data
    data.mkdir(parents=True)
    rows = [json.loads(json.dumps(task.document).replace("CLIP", clip.stem)) for clip in clips]
    (data / f"{task.config}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    configs = f"[{{config_name: {task.config}, data_files: [{{split: {task.split}, path: {task.config}.jsonl}}]}}]"
    (data / "README.md").write_text(f"---\nconfigs: {configs}\n---\n")
    media = own.folder / "hub" / task.media
    media.mkdir(parents=True)
    for clip in clips:
        shutil.copyfile(clip, media / clip.name)


def test_tasks_of_lmms_eval_get_the_answers_of_the_model_to_their_prompts(made: Made, own: OwnEnvironment) -> None:
    for task in TASKS:
        write_data(task, own, made.clips)
    where = own.run(["python", "-c", "import lmms_eval.tasks; print(lmms_eval.tasks.__path__[0])"]).stdout.split()[-1]
    names = [task.name for task in TASKS]
    [finished] = own.evaluate(
        [
            {
                "model_args": f"pretrained={made.folder}",
                "tasks": [*names, BY_LIKELIHOOD],
                "folders": [f"{where}/{task.folder}" for task in TASKS],
            }
        ]
    )
    assert finished["status"] == 0, finished["printed"][-3000:]
    for task in TASKS:
        samples = finished["samples"][task.name]
        assert [sample["arguments"][0] for sample in samples] == [task.prompt] * len(made.clips)
        expected = [made.model.answer(clip, task.prompt, max_new_tokens=task.max_new_tokens) for clip in made.clips]
        assert [sample["resps"][0][0] for sample in samples] == [text.split("\n\n")[0] for text in expected]
        assert f"{task.metric},none" in finished["results"][task.name]
    medium_scores = []
    for clip in made.clips:
        asked = AskedQuestion("which colour ?", (*OPTIONS, "yes"))
        [answer] = ask_about(made.model, open_timed(made.model, clip).medium, [asked], DecodingSettings())
        medium_scores.append(answer.scores)
    for sample, scores in zip(finished["samples"][BY_LIKELIHOOD], medium_scores, strict=True):
        assert [float(loss) for loss, _ in sample["filtered_resps"]] == pytest.approx([-s for s in scores], abs=1e-5)
