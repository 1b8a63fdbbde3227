"""The whole model with visual tokens that depend on the question."""

from functools import partial

import pytest
import torch
from torch import Tensor

from components.bridges.readouts.retrieved import RetrievedReadout
from components.interfaces import IGNORED_LABEL, TEXT_ONLY, VIDEO_PLACEHOLDER
from components.losses import EverySegmentLoss
from components.model import VideoLanguageModel, text_of
from components.question_text import before_answer, embed_questions
from datamodules.batch import Batch, collate
from tests.fixtures_models import (
    Dialogue,
    PartFolders,
    make_batch,
    make_bridge,
    make_frames,
    make_mixed_samples,
    make_model,
    make_sample,
    open_gate,
)


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    model = make_model(folders, bridge=partial(make_bridge, readout=RetrievedReadout))
    open_gate(model.bridge)
    return model


def ask(folders: PartFolders, *dialogues: Dialogue) -> Batch:
    return collate([make_sample(folders, "video", make_frames(4), list(dialogues))])


def tokens(model: VideoLanguageModel, batch: Batch) -> Tensor:
    return model.visual_tokens(batch).tokens


def test_changing_the_answer_leaves_the_visual_tokens_unchanged(
    folders: PartFolders, model: VideoLanguageModel
) -> None:
    red = tokens(model, ask(folders, [("which colour ?", "red")]))
    longer = tokens(model, ask(folders, [("which colour ?", "blue square green circle")]))
    torch.testing.assert_close(longer, red, rtol=1e-5, atol=1e-5)


def test_visual_tokens_have_no_gradient_to_answers_and_later_turns(
    folders: PartFolders, model: VideoLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = ask(folders, [("which colour ?", "red"), ("and then ?", "blue")])
    seen: list[Tensor] = []
    embed = model.language_model.embed

    def keep(input_ids: Tensor) -> Tensor:
        seen.append(embed(input_ids).detach().requires_grad_())
        return seen[-1]

    monkeypatch.setattr(model.language_model, "embed", keep)
    tokens(model, batch).square().sum().backward()  # type: ignore[no-untyped-call]
    [embedded] = seen
    assert embedded.grad is not None
    reached = embedded.grad[0].abs().amax(dim=1) > 0  # [K]
    first_answer = int((batch.labels[0] != IGNORED_LABEL).nonzero()[0])
    assert not reached[first_answer:].any()
    expected = batch.input_ids[0, :first_answer] != VIDEO_PLACEHOLDER
    assert torch.equal(reached[:first_answer], expected)


def test_question_changes_the_visual_tokens_of_the_same_video(folders: PartFolders, model: VideoLanguageModel) -> None:
    visual = model.visual_tokens(ask(folders, [("which colour ?", "red")], [("how many ?", "two")]))
    assert visual.tokens.shape[0] == 2
    assert not torch.allclose(visual.tokens[0], visual.tokens[1], atol=1e-4)


def test_training_generating_and_scoring_see_the_same_tokens(folders: PartFolders, model: VideoLanguageModel) -> None:
    answered = ask(folders, [("which colour ?", "red")])
    prompt_length = int(before_answer(text_of(answered)).sum())
    prompt = answered._replace(
        input_ids=answered.input_ids[:, :prompt_length],
        text_mask=answered.text_mask[:, :prompt_length],
        labels=answered.labels[:, :prompt_length],
    )
    torch.testing.assert_close(tokens(model, prompt), tokens(model, answered), rtol=1e-5, atol=1e-5)
    trained_on: list[Tensor] = []
    hook = model.language_model.register_forward_pre_hook(lambda _, inputs: trained_on.append(inputs[0].tokens))
    model(answered)
    hook.remove()
    torch.testing.assert_close(trained_on[0], tokens(model, prompt), rtol=1e-5, atol=1e-5)


def test_two_conversations_on_one_video_equal_two_samples(folders: PartFolders, model: VideoLanguageModel) -> None:
    frames = make_frames(4)
    dialogues: list[Dialogue] = [[("which colour ?", "red")], [("which shape ?", "square")]]
    shared = model(collate([make_sample(folders, "both", frames, dialogues)]))
    split = model(collate([make_sample(folders, "one", frames, [dialogue]) for dialogue in dialogues]))
    torch.testing.assert_close(shared.loss, split.loss, rtol=0, atol=1e-5)


def test_answers_and_option_scores_of_a_mixed_batch_equal_those_of_its_items(
    folders: PartFolders, model: VideoLanguageModel
) -> None:
    samples = make_mixed_samples(folders)
    alone = [collate([sample]) for sample in samples]
    together = collate(samples)
    answers = [answer for batch in alone for answer in model.generate(batch, max_new_tokens=4)]
    assert model.generate(together, max_new_tokens=4) == answers
    options = ["red", "green circle"]
    scores = model.score_options(together, [options] * len(together.questions))
    expected = [score for batch in alone for score in model.score_options(batch, [options] * len(batch.questions))]
    torch.testing.assert_close(torch.stack(scores), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_gradient_reaches_memory_and_question_after_every_segment(
    folders: PartFolders, model: VideoLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "loss_schedule", EverySegmentLoss())
    names = ["initial_memory", "gate", "readout.word_input.1.weight", "readout.queries"]
    parameters = [model.bridge.get_parameter(name) for name in names]
    output = model(make_batch(folders))
    for name, gradient in zip(names, torch.autograd.grad(output.loss, parameters), strict=True):
        assert bool(gradient.isfinite().all() & (gradient != 0).any()), name


def test_question_is_the_text_before_the_first_answer_without_the_placeholder(
    folders: PartFolders, model: VideoLanguageModel
) -> None:
    batch = make_batch(folders)
    questions = embed_questions(model.language_model, text_of(batch))
    assert questions.video_index.flatten().tolist() == [0, 0, TEXT_ONLY, 1, 2]
    tokenizer = model.language_model.tokenizer
    asked = [tokenizer.decode(ids[mask]) for ids, mask in zip(batch.input_ids, questions.mask, strict=True)]
    for text, question, answer in zip(
        asked,
        ["which colour", "which shape", "say hello", "how many", "which colour"],
        ["red", "circle", "hello hello", "one two", "green"],
        strict=True,
    ):
        assert question in text
        assert answer not in text
    assert "and then" not in asked[1]
