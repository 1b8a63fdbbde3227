"""The real lmms-eval asks the model as this project does itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from membridge.conversation import Conversation
from membridge.evaluation.benchmark_run import BenchmarkRun
from membridge.evaluation.item_answers import AskingSettings
from membridge.frame_folder import read_frame_folder
from membridge.opened_medium import read_medium
from tests.lmms_eval.conftest import Made
from tests.lmms_eval.made_tasks import document, write_task
from tests.lmms_eval.own_environment import OwnEnvironment, saved_samples
from tests.membridge.evaluation.made_benchmark import MadeBenchmark, made_items

pytestmark = [pytest.mark.slow, pytest.mark.lmms_eval, pytest.mark.timeout(900)]

ITEMS = made_items(3)
QUESTION = "which colour ?"


def write_benchmark_tasks(folder: Path, made: Made) -> None:
    """The made benchmark as two tasks: ``made_generate`` by letters, ``made_choice`` by likelihood."""
    benchmark = MadeBenchmark(ITEMS)
    documents = [
        {
            **document(item.id, benchmark.prompt(item, []).text, [made.clips[int(item.media[0].path[-1])]]),
            "question": item.question,
            "options": item.options,
            "answer": item.answer,
        }
        for item in ITEMS
    ]
    write_task(folder, "made_generate", "generate", documents)
    write_task(folder, "made_choice", "choice", documents)


def own_answers(made: Made, out: Path, chosen_by: str) -> list[dict[str, Any]]:
    """Answers of this project's own evaluation."""
    benchmark = MadeBenchmark(ITEMS, chosen_by=chosen_by)
    run = BenchmarkRun(benchmark, ITEMS, made.clips[0].parent, out / chosen_by, {}, AskingSettings(6))
    run.answer(made.model)
    return [run.answers()[item.id] for item in ITEMS]


def check_equal_to_own(made: Made, tmp_path: Path, generated: list[Any], chosen: list[Any]) -> None:
    by_letter, by_text = (own_answers(made, tmp_path / "own", by) for by in ("letter", "text"))
    texts = [answer["text"] for answer in by_letter]
    assert [sample["answer"] for sample in generated] == [
        {"id": item.id, "text": text} for item, text in zip(ITEMS, texts, strict=True)
    ]
    assert len(set(texts)) > 1
    for sample, own_answer in zip(chosen, by_text, strict=True):
        losses = [float(loss) for loss, _ in sample["filtered_resps"]]
        assert losses == pytest.approx([-value for value in own_answer["likelihoods"]], abs=1e-5)
        assert sample["acc"] == own_answer["scores"]["likelihood"]
    assert 0 < sum(sample["acc"] for sample in chosen) < len(ITEMS)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_gives_the_answers_and_scores_of_the_own_evaluation(
    made: Made, own: OwnEnvironment, tmp_path: Path, processes: int
) -> None:
    write_benchmark_tasks(tmp_path / "tasks", made)
    together = ["python", "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "-m", "lmms_eval"]
    program = ["lmms-eval"] if processes == 1 else together
    ended = own.run(
        [
            *program,
            "--model=membridge",
            f"--model_args=pretrained={made.folder}",
            "--tasks=made_generate,made_choice",
            f"--include_path={tmp_path / 'tasks'}",
            f"--output_path={tmp_path / 'out'}",
            "--log_samples",
            "--batch_size=2",
            "--device=cpu",
        ],
    )
    assert list((tmp_path / "out").glob("*/*_results.json")), ended.stdout[-3000:] + ended.stderr[-3000:]
    generated, chosen = (saved_samples(tmp_path / "out", task) for task in ("made_generate", "made_choice"))
    check_equal_to_own(made, tmp_path, generated, chosen)
    assert all(sample["token_counts"][0]["input_tokens"] > 0 for sample in generated)


def shown_in_every_form(made: Made) -> dict[str, tuple[dict[str, Any], str]]:
    """Documents by name, each with the answer that a conversation gives."""
    clip, pictures = made.clips[0], made.pictures

    def asked(question: str, *media: Any) -> str:
        conversation = Conversation(made.model)
        conversation.settings = conversation.settings.__class__(6)
        for medium in media:
            if isinstance(medium, Path):
                conversation.load(medium)
            else:
                conversation.add(medium)
        return conversation.ask(question).text

    video = read_medium(made.model, "", read_frame_folder(pictures[0].parent, 1.0, made.model.training_facts.frames))
    part = Conversation(made.model).load(clip, start_ms=1000, end_ms=3000)
    marks = "which <image> or <image> ?"
    return {
        "bare": (document("bare", QUESTION, [clip], "bare"), asked(QUESTION, clip)),
        "two": (document("two", QUESTION, made.clips[:2]), asked(QUESTION, *made.clips[:2])),
        "part": (document("part", QUESTION, [clip], "part"), asked(QUESTION, part)),
        "file": (document("file", QUESTION, pictures[:1]), asked(QUESTION, pictures[0])),
        "one": (document("one", QUESTION, pictures[:1], "pictures"), asked(QUESTION, pictures[0])),
        "video": (document("video", QUESTION, pictures, "pictures"), asked(QUESTION, video)),
        "marks": (
            document("marks", marks, pictures[:2], "pictures"),
            asked(marks.replace("<image>", "<video>"), *pictures[:2]),
        ),
        "none": (document("none", QUESTION, []), asked(QUESTION)),
    }


def test_media_messages_rounds_and_repeats_are_those_of_a_conversation(
    made: Made, own: OwnEnvironment, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks"
    forms = shown_in_every_form(made)
    write_task(tasks, "made_forms", "generate", [each for each, _ in forms.values()])
    in_messages = {name: each for name, each in forms.items() if name != "bare"}  # lmms-eval takes its letters
    write_task(tasks, "made_chat_forms", "generate", [each for each, _ in in_messages.values()])
    videos = [document(clip.stem, QUESTION, [clip]) for clip in made.clips]
    write_task(tasks, "made_rounds", "rounds", videos)
    write_task(tasks, "made_messages", "messages", videos)
    write_task(tasks, "made_sample", "sample", videos[:1])
    run = {"folders": [str(tasks)], "model_args": f"pretrained={made.folder}"}
    simple, chat, sampled = own.evaluate(
        [
            {**run, "tasks": ["made_forms", "made_rounds"]},
            {**run, "model": "membridge_chat", "tasks": ["made_chat_forms", "made_messages", "made_rounds"]},
            {**run, "tasks": ["made_sample"], "repeats": 6},
        ]
    )
    assert answers(simple, "made_forms") == {name: answer for name, (_, answer) in forms.items()}
    assert answers(chat, "made_chat_forms") == {name: answer for name, (_, answer) in in_messages.items()}
    assert (
        answers(simple, "made_rounds")
        == answers(chat, "made_rounds")
        == {clip.stem: in_rounds(made, clip) for clip in made.clips}
    )
    assert answers(chat, "made_messages") == {clip.stem: after_messages(made, clip) for clip in made.clips}
    [sample] = sampled["samples"]["made_sample"]
    assert len(set(sample["resps"][0])) > 1


def answers(finished: Mapping[str, Any], task: str) -> dict[str, Any]:
    return {sample["answer"]["id"]: sample["answer"]["text"] for sample in finished["samples"][task]}


def in_rounds(made: Made, clip: Path) -> list[str]:
    first = made.model.answer(clip, QUESTION, max_new_tokens=6)
    return [first, made.model.answer(clip, f"and {first} ?", max_new_tokens=6)]


def after_messages(made: Made, clip: Path) -> str:
    conversation = Conversation(made.model)
    conversation.settings = conversation.settings.__class__(6)
    conversation.resume([("system", "which colour"), ("user", QUESTION), ("assistant", "red")])
    conversation.load(clip)
    return conversation.ask("which shape ?").text


def test_wrong_inputs_end_the_command_with_a_message_and_a_status(
    made: Made, own: OwnEnvironment, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks"
    missing = tmp_path / "missing.mp4"
    (tmp_path / "damaged.mp4").write_bytes(made.clips[0].read_bytes()[:500])
    whole = document("whole", QUESTION, made.clips[:1])
    write_task(tasks, "made_missing", "generate", [document("missing", QUESTION, [missing]), whole])
    write_task(tasks, "made_damaged", "choice", [document("damaged", QUESTION, [tmp_path / "damaged.mp4"]), whole])
    model = f"pretrained={made.folder}"
    stopped, went_on, unsure, other, no_model = own.evaluate(
        [
            {"tasks": [task], "model_args": model_args, "folders": [str(tasks)]}
            for task, model_args in [
                ("made_missing", model),
                ("made_missing", f"{model},on_error=empty"),
                ("made_damaged", f"{model},on_error=empty"),
                ("made_missing", f"{model},max_num_frames=8"),
                ("made_missing", f"pretrained={tmp_path / 'absent'}"),
            ]
        ]
    )
    assert [each["status"] for each in (stopped, went_on, unsure, other, no_model)] == [2, 0, 2, 2, 2]
    expected = made.model.answer(made.clips[0], QUESTION, max_new_tokens=6)
    assert answers(went_on, "made_missing") == {"missing": "", "whole": expected}
    printed = stopped["printed"]
    for line in (
        f"error: there is no file {missing}",
        f"empty answer, which is wrong in most tasks: there is no file {missing}",
        f"error: {tmp_path / 'damaged.mp4'}",
        "error: --model_args has max_num_frames; expected pretrained,",
    ):
        assert line in printed
    assert json.dumps(str(tmp_path / "absent"))[1:-1] in printed


def test_both_models_are_listed_beside_those_of_lmms_eval(own: OwnEnvironment) -> None:
    listed = own.run(["python", "-c", "import lmms_eval.models as m; print(*m.list_available_models())"]).stdout.split()
    assert {"membridge", "membridge_chat", "llava_onevision", "qwen2_5_vl"} <= set(listed)
