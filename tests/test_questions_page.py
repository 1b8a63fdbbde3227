"""The code of docs/questions.md runs as printed; it reads the video once, and a second turn as training does."""

from pathlib import Path
from typing import Any

import pytest
import torch

import membridge
from components.interfaces import TextInputs
from components.language.chat_text import PlainTurn
from components.model import VideoLanguageModel
from components.pretrained.frame_settings import FrameSettings, TrainingFacts
from tests.documentation import blocks_of
from tests.fixtures_data import make_clip, natural_frames
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_model

PAGE = "docs/questions.md"
NUM_QUESTIONS = 10


class RunPage:
    """The page's blocks, run one after the other, and the calls that they made."""

    def __init__(self, model: VideoLanguageModel) -> None:
        self.names: dict[str, Any] = {}
        self.encoded: list[int] = []
        self.rows: list[int] = []  # of every call of the language model's network
        model.encoder.register_forward_pre_hook(lambda _, inputs: self.encoded.append(len(inputs[0])))
        network: Any = model.language_model.model
        network.register_forward_pre_hook(
            lambda _, args, kwargs: self.rows.append(len(kwargs["inputs_embeds"])), with_kwargs=True
        )

    def run(self, block: int) -> None:
        self.encoded.clear()
        self.rows.clear()
        exec(blocks_of(PAGE, "python")[block].text, self.names)  # the page's own code


@pytest.fixture
def page(folders: PartFolders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunPage:
    model = make_model(folders)
    model.training_facts = TrainingFacts(FrameSettings(IMAGE_SIZE, "crop", None, 2.0))
    monkeypatch.setattr(membridge, "load", lambda path: model)
    monkeypatch.chdir(tmp_path)
    Path("video.mp4").write_bytes(make_clip(8, fps=2, frames=natural_frames(8, 48, 64)))
    return RunPage(model)


def test_ten_questions_read_the_video_once(page: RunPage, capsys: pytest.CaptureFixture[str]) -> None:
    page.run(0)
    assert page.encoded == [8]
    assert page.rows[:2] == [1, NUM_QUESTIONS]  # the shared beginning, then the rest of every question
    assert page.rows.count(4) == NUM_QUESTIONS  # four options of every question
    assert [scores.shape for scores in page.names["scores"]] == [(4,)] * NUM_QUESTIONS
    assert capsys.readouterr().out.count("\n") == NUM_QUESTIONS + 1


def test_a_second_question_is_read_as_in_training(page: RunPage) -> None:
    page.run(0)
    model, visual = page.names["language_model"], page.names["visual"]
    answers = page.names["answers"]
    page.run(1)
    assert page.encoded == []
    state, conversations = page.names["state"], page.names["conversations"]
    for row, turns in enumerate(conversations):
        question, answer, second = (PlainTurn(*turn) for turn in turns)
        before = torch.tensor(model.chat.prompt_ids([PlainTurn("user", f"<video>\n{question.content}")]))
        after = torch.tensor(model.chat.next_prompt_ids([question, answer, second]))
        ids = torch.cat([before, torch.tensor(answers.token_ids[row], dtype=torch.int64), after])[None]
        text = TextInputs(ids, torch.ones_like(ids).bool(), ids, torch.zeros(1, 1, dtype=torch.int64))
        whole = model.prefill(visual, text)
        assert whole.lengths == state.lengths[row : row + 1]
        torch.testing.assert_close(state.logits[row : row + 1], whole.logits, atol=1e-5, rtol=1e-5)


def test_settings_of_decoding_and_streaming_run(page: RunPage, capsys: pytest.CaptureFixture[str]) -> None:
    for block in range(3):
        page.run(block)
    assert capsys.readouterr().out.endswith(page.names["answers"].texts[0])
    page.run(3)
    streamed = page.names["state"]
    offline = page.names["language_model"].prefill(page.names["visual"], page.names["text"])
    torch.testing.assert_close(streamed.logits, offline.logits, atol=1e-5, rtol=1e-5)
    assert len(blocks_of(PAGE, "python")) == 4
