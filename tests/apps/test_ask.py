"""``python -m apps.ask``: what it prints, what it writes, and what it says where it cannot."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import membridge
from apps import ask
from apps.ask import INCOMPLETE, split_arguments
from command_errors import REFUSED, run_and_exit
from tests.documentation import ROOT
from tests.fixtures_data import make_clip, make_image, natural_frames
from tests.fixtures_exported import QUESTION, Trained

OTHER = "how many shape ?"
LINES = [
    {"video": "a.mp4", "question": QUESTION, "id": "a1"},
    {"video": "b.mp4", "question": QUESTION},
    {"video": "a.mp4", "question": OTHER, "id": 7},
    {"video": "a.mp4", "question": QUESTION, "options": ["red", "blue square"], "start": "0:01", "end": 3},
    {"video": "picture.png", "question": QUESTION},
]
IDS = ["a1", "7", "2", "4", "5"]  # in the order of the answers: of one video, one after the other


@pytest.fixture
def model(trained: Trained) -> str:
    return str(trained.exported)


@pytest.fixture
def folder(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with two videos, a picture, a broken video and a file of questions."""
    (tmp_path / "a.mp4").write_bytes(trained.video)
    (tmp_path / "b.mp4").write_bytes(
        make_clip(6, width=96, height=84, fps=2, frames=natural_frames(6, 84, 96, 9))  # another picture
    )
    (tmp_path / "picture.png").write_bytes(make_image(width=96, height=84))
    (tmp_path / "broken.mp4").write_bytes(trained.video[: len(trained.video) // 2])
    write(tmp_path / "questions.jsonl", LINES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def answers_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in each.items() if "seconds" not in name} for each in answers]


def ends(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status and what was printed to both outputs."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ending:
        run_and_exit(lambda: ask.main(arguments))
    printed = capfd.readouterr()
    assert isinstance(ending.value.code, int)
    assert "Traceback" not in printed.err
    return ending.value.code, printed.out, printed.err


def test_one_answer_is_printed_alone_and_is_that_of_the_model(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = ends([model, "a.mp4", QUESTION, "--device", "cpu"], capfd)
    expected = membridge.load(model).answer("a.mp4", QUESTION)
    assert (status, out.strip()) == (0, expected or "(the model gave an empty answer)")


def test_several_questions_about_several_media_are_printed_with_both(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = ends([model, QUESTION, "a.mp4", OTHER, "picture.png", "--max-new-tokens", "2"], capfd)
    assert status == 0
    lines = out.splitlines()
    assert lines[0::5] == ["a.mp4", "picture.png"]
    assert lines[1::5] == lines[1:2] * 2 == [f"  {QUESTION}"] * 2
    assert lines[3::5] == [f"  {OTHER}"] * 2


def test_json_tells_times_frames_tokens_and_seconds(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--json", "--start", "0:01", "--end", "3"]
    status, out, _ = ends([model, "a.mp4", "b.mp4", QUESTION, OTHER, *options], capfd)
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [(line["medium"], line["question"]) for line in lines] == [
        (medium, question) for medium in ("a.mp4", "b.mp4") for question in (QUESTION, OTHER)
    ]
    for line in lines:
        assert (line["start"], line["end"], line["frames"]) == (1.0, 2.5, 4)
        assert line["tokens"]["prompt"] > line["tokens"]["visual"] > 0
        assert min(line["decode_seconds"], line["read_seconds"], line["answer_seconds"]) > 0


def test_a_question_may_be_about_all_media_together(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = ends([model, "a.mp4", "b.mp4", QUESTION, "--together", "--json"], capfd)
    line = json.loads(out)
    alone = json.loads(ends([model, "a.mp4", QUESTION, "--json"], capfd)[1])
    assert status == 0
    assert [each["medium"] for each in line["media"]] == ["a.mp4", "b.mp4"]
    assert line["tokens"]["visual"] > alone["tokens"]["visual"]


def test_arguments_are_sorted_into_media_and_questions(folder: Path) -> None:
    (folder / "What").mkdir()
    media = ["a.mp4", "none.MKV", "rtsp://host/live", "no_such/picture.jpeg", str(folder / "broken.mp4"), "What"]
    questions = ["What is in a.mp4", "Why?", "is it 3.5 ?", "yes/no?", "x" * 5000, "a\0b"]
    mixed = [argument for pair in zip(media, questions, strict=True) for argument in pair]
    assert split_arguments(mixed) == ([Path(each) for each in media], questions)


def test_a_command_line_without_model_is_refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for first in ("a.mp4", "none.mp4"):
        status, _, err = ends([first, "What?"], capfd)
        assert status == REFUSED
        assert f"the first argument is the model, but {first} is a file" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the file of a video or picture, and a question"),
        (["What?"], "none of the arguments is a file: 'What?'"),
        (["a.mp4"], "there is no question, only media: a.mp4"),
        (["a.mp4", "What?", "--out", "x.jsonl"], "--out is for --questions"),
        (["--questions", "questions.jsonl"], "--questions needs --out"),
        (["a.mp4", "What?", "--start", "soon"], "'soon' is no time in a video; write seconds"),
        (["a.mp4", "What?", "--at-once", "0"], "0 is not a number of at least 1"),
    ],
)
def test_a_wrong_command_line_is_refused_before_the_model_is_opened(
    arguments: list[str], message: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, err = ends(["no_model", *arguments], capfd)
    assert status == REFUSED
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start", "5", "--end", "2"], "start_ms is 5000 and end_ms 2000; expected"),
        (["--start", "1:00"], "start_ms 60000 is after the video's end"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0; expected at least 1"),
        (["--temperature", "-1"], "temperature is -1.0; expected 0"),
        (["red " * 400], "max_position_embeddings"),
    ],
)
def test_what_cannot_be_asked_says_why(
    options: list[str], message: str, model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, err = ends([model, "a.mp4", QUESTION, *options], capfd)
    assert status == REFUSED
    assert message in err.splitlines()[-1]


def test_a_broken_medium_among_others_is_told_and_the_others_are_answered(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = ends([model, "broken.mp4", "none.mp4", "a.mp4", QUESTION], capfd)
    assert status == INCOMPLETE
    assert out.splitlines()[0] == "a.mp4"
    assert "broken.mp4" in err
    assert "there is no file none.mp4" in err
    assert err.splitlines()[-1] == "error: 2 of 3 media could not be read; see above"


def test_a_file_of_questions_is_answered_with_one_pass_a_video(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Any, ...]] = []
    real = ask.ask_from_file.__globals__["open_timed"]
    monkeypatch.setitem(
        ask.ask_from_file.__globals__, "open_timed", lambda *given: (opened.append(given[1:]), real(*given))[1]
    )
    status, out, _ = ends([model, "--questions", "questions.jsonl", "--out", "out/answers.jsonl"], capfd)
    assert status == 0
    assert "5 of 5 questions are answered, 5 of them now" in out
    assert [path.name for path, *_ in opened] == ["a.mp4", "b.mp4", "a.mp4", "picture.png"]  # a part is read apart
    found = answers_in(folder / "out/answers.jsonl")
    assert [each["id"] for each in found] == IDS
    loaded = membridge.load(model)
    assert [each["answer"] for each in found[:2]] == loaded.answer("a.mp4", [QUESTION, OTHER])
    assert found[3]["answer"] in LINES[3]["options"]
    assert found[3]["answer"] == LINES[3]["options"][found[3]["scores"].index(max(found[3]["scores"]))]
    assert (found[3]["start"], found[3]["end"]) == (1.0, 2.5)


def test_what_is_answered_is_not_asked_again_and_a_cut_line_is_repaired(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [model, "--questions", "questions.jsonl", "--out", "answers.jsonl"]
    out = folder / "answers.jsonl"
    assert ends(command, capfd)[0] == 0
    complete = answers_in(out)
    for kept in (3, 0):
        lines = out.read_bytes().splitlines(keepends=True)
        out.write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
        status, printed, err = ends(command, capfd)
        assert status == 0
        assert "removed a last line that was not written completely" in err
        assert f"5 of 5 questions are answered, {5 - kept} of them now" in printed
        assert without_times(answers_in(out)) == without_times(complete)
        assert answers_in(out)[:kept] == complete[:kept]
    assert "0 of them now" in ends(command, capfd)[1]


def test_broken_videos_are_listed_and_tried_again(model: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = [
        {"video": name, "question": QUESTION, "id": f"{name} {n}"} for name in ("broken.mp4", "late.mp4") for n in "12"
    ]
    long = {"video": "a.mp4", "question": "red " * 400, "id": "long"}
    write(folder / "questions.jsonl", [bad[0], LINES[0], *bad[1:], long, LINES[1]])
    command = [model, "--questions", "questions.jsonl", "--out", "answers.jsonl"]
    status, out, err = ends(command, capfd)
    assert status == INCOMPLETE
    assert "2 of 7 questions are answered" in out
    assert "error: 5 questions without an answer (2 of 4 videos cannot be read)" in err.splitlines()[-1]
    failed = {each["id"]: each["error"] for each in answers_in(folder / "answers.failed.jsonl")}
    assert failed.keys() == {each["id"] for each in bad} | {"long"}
    assert "there is no file" in failed["late.mp4 1"]
    assert "max_position_embeddings" in failed["long"]
    shutil.copyfile("b.mp4", "late.mp4")
    status, out, _ = ends(command, capfd)
    assert status == INCOMPLETE
    assert "4 of 7 questions are answered, 2 of them now" in out
    assert {each["id"] for each in answers_in(folder / "answers.failed.jsonl")} == {bad[0]["id"], bad[1]["id"], "long"}


def test_answers_of_another_model_settings_or_questions_are_not_continued(
    model: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["--questions", "questions.jsonl", "--out", "answers.jsonl"]
    assert ends([model, *command], capfd)[0] == 0
    before = (folder / "answers.jsonl").read_bytes()
    membridge.load(model).save_pretrained("half", dtype="bfloat16")
    shutil.copytree(model, "moved")
    for arguments, named in (
        (["half"], "another model or other settings: dtype was 'float32', is 'bfloat16', model was "),
        ([model, "--temperature", "0.5"], "temperature was 0.0, is 0.5"),
        ([model, "--max-new-tokens", "9"], "max_new_tokens was 3, is 9"),
    ):
        status, _, err = ends([*arguments, *command], capfd)
        assert status == REFUSED
        assert named in err.splitlines()[-1]
    assert ends(["moved", *command], capfd)[0] == 0  # it is the same model in another folder
    write(folder / "questions.jsonl", [{**LINES[0], "question": OTHER}, *LINES[1:]])
    status, _, err = ends([model, *command], capfd)
    assert status == REFUSED
    assert "has an answer to another question with the id 'a1'" in err.splitlines()[-1]
    assert (folder / "answers.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_killed_command_is_continued_to_the_same_answers(model: str, folder: Path) -> None:
    lines = []
    for number in range(12):
        shutil.copyfile("ab"[number % 2] + ".mp4", f"v{number}.mp4")
        lines += [{"video": f"v{number}.mp4", "question": question} for question in (QUESTION, OTHER)]
    write(folder / "many.jsonl", lines)
    command = [sys.executable, "-m", "apps.ask", model, "--questions", "many.jsonl", "--device", "cpu", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, "killed.jsonl"], env=environment) as running:
        while not (folder / "killed.jsonl").exists() or not (folder / "killed.jsonl").stat().st_size:
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    num_before = len((folder / "killed.jsonl").read_bytes().splitlines())
    assert 0 < num_before < 24
    for name in ("killed.jsonl", "whole.jsonl"):
        subprocess.run([*command, name], env=environment, check=True)
    assert without_times(answers_in(folder / "killed.jsonl")) == without_times(answers_in(folder / "whole.jsonl"))
