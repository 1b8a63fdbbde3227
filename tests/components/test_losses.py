from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.iteration_loss import LiveTensorBytes, main
from components.interfaces import TEXT_ONLY, AnswerLoss, LossSchedule, TextInputs, VisualTokens
from components.language.causal import HuggingFaceCausalLM
from components.language.model_loading import LoraSettings
from components.losses import (
    EverySegmentLoss,
    FinalSegmentLoss,
    answer_loss_per_reading,
    penalty_weighted_by_likelihood,
    weighted_answer_loss,
    weights_of_conversations,
)
from tests.components.tiny_language import make_model_folder, make_text, make_visual

ROWS = [(0, "what colour ?", "red circle"), (TEXT_ONLY, "say hello", "hello"), (1, "how many ?", "one")]


def answer_loss(nll: Sequence[float], num_tokens: Sequence[int]) -> AnswerLoss:
    return AnswerLoss(torch.tensor(nll, requires_grad=True), torch.tensor(num_tokens))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model_folder(tmp_path_factory.mktemp("llama"), attention_dropout=0.3))


def test_final_segment_loss_reads_once_after_the_last_segment() -> None:
    assert list(FinalSegmentLoss().steps(5)) == [4]
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    assert FinalSegmentLoss().weights(mask).tolist() == [[1.0]] * 3


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("uniform", [[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 2, 0], [0, 0, 1]]),
        ("increasing", [[1 / 6, 2 / 6, 3 / 6], [1 / 3, 2 / 3, 0], [0, 0, 1]]),
    ],
)
def test_every_segment_loss_weighs_real_segments_only(
    profile: Literal["uniform", "increasing"], expected: list[list[float]]
) -> None:
    schedule = EverySegmentLoss(profile)
    assert list(schedule.steps(3)) == [0, 1, 2]
    mask = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    torch.testing.assert_close(schedule.weights(mask), torch.tensor(expected))


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=6), padding=st.integers(0, 3))
def test_weights_of_every_video_sum_to_one_whatever_the_padding(counts: list[int], padding: int) -> None:
    num_segments = max(1, *counts) + padding
    mask = torch.arange(num_segments) < torch.tensor(counts)[:, None]
    for schedule in (FinalSegmentLoss(), EverySegmentLoss("uniform"), EverySegmentLoss("increasing")):
        weights = schedule.weights(mask)
        assert weights.shape == (len(counts), len(schedule.steps(num_segments)))
        assert bool((weights >= 0).all())
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(counts)))


def test_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match="'linear'; expected 'uniform' or 'increasing'"):
        EverySegmentLoss("linear")  # type: ignore[arg-type]


def test_penalty_counts_as_far_as_answers_are_known() -> None:
    penalty = torch.tensor([2.0, 6.0], requires_grad=True)
    known, unknown = 0.0, 1e4  # loss of answers that the model is sure of, and of those it thinks impossible
    about = torch.tensor([[0], [1], [TEXT_ONLY], [1]])
    answers = answer_loss([known, unknown, known, 3 * torch.tensor(2.0).log().item()], [1, 5, 2, 3])
    total = penalty_weighted_by_likelihood(penalty, about, answers)
    assert total.item() == pytest.approx((1 * 2.0 + 3 * 0.5 * 6.0) / 11)
    total.backward()
    assert answers.nll.grad is None  # or forgetting answers would make remembering cheaper
    assert penalty_weighted_by_likelihood(penalty, torch.full((1, 1), TEXT_ONLY), answer_loss([1.0], [1])).item() == 0.0


@pytest.mark.parametrize(
    ("videos", "expected"),
    [
        ([0, TEXT_ONLY], [1 / 3, 1 / 3, 1 / 3]),
        ([1, TEXT_ONLY], [1.0, 0.0, 0.0]),
        ([1, 0], [1 / 3, 1 / 3, 1 / 3]),  # its longer video has three segments
        ([TEXT_ONLY, TEXT_ONLY], [0.0, 0.0, 1.0]),
    ],
)
def test_a_conversation_counts_where_one_of_its_media_has_a_segment(videos: list[int], expected: list[float]) -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    weights = weights_of_conversations(EverySegmentLoss(), mask, torch.tensor([videos]))
    torch.testing.assert_close(weights, torch.tensor([expected]))


class Careless(LossSchedule):
    """Does not treat conversations without media apart."""

    def steps(self, num_segments: int) -> Sequence[int]:
        return range(num_segments)

    def weights(self, segment_mask: Tensor) -> Tensor:
        return torch.full(segment_mask.shape, 1 / segment_mask.shape[1])


def test_only_the_last_reading_of_text_alone_counts_whatever_the_schedule_says() -> None:
    weights = weights_of_conversations(Careless(), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[TEXT_ONLY], [0]]))
    assert weights.tolist() == [[0.0, 1.0], [0.5, 0.5]]


def test_penalty_of_a_conversation_is_shared_by_its_media() -> None:
    penalty = torch.tensor([2.0, 6.0])
    total = penalty_weighted_by_likelihood(
        penalty, torch.tensor([[0, 1], [0, TEXT_ONLY]]), answer_loss([0.0, 0.0], [2, 1])
    )
    assert total.item() == pytest.approx((2 * (2.0 + 6.0) / 2 + 1 * 2.0) / 3)


def test_loss_is_the_weighted_mean_over_answer_tokens() -> None:
    losses = [answer_loss([4.0, 6.0, 1.0], [2, 3, 1]), answer_loss([2.0, 3.0, 5.0], [2, 3, 1])]
    loss = weighted_answer_loss(losses, torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]]))
    expected = (0.5 * 4 + 0.5 * 2) + (0.25 * 6 + 0.75 * 3) + 5.0
    assert loss.item() == pytest.approx(expected / 6)


def test_batch_without_labels_has_zero_loss_with_its_graph() -> None:
    losses = [answer_loss([0.0, 0.0], [0, 0])]
    loss = weighted_answer_loss(losses, torch.ones(2, 1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert losses[0].nll.grad is not None


def every_reading(model: HuggingFaceCausalLM, readings: Sequence[VisualTokens], text: TextInputs) -> list[AnswerLoss]:
    return [model(reading, text) for reading in readings]


def make_readings(num_readings: int) -> list[VisualTokens]:
    readings = [make_visual(seed=seed) for seed in range(num_readings)]
    for reading in readings:
        reading.tokens.requires_grad_()
    return readings


@pytest.mark.parametrize("variant", ["plain", "gradient_checkpointing", "lora"])
def test_memory_saving_form_equals_the_naive_one_under_dropout(folder: str, variant: str) -> None:
    lora = LoraSettings(rank=2, dropout=0.2) if variant == "lora" else None
    torch.manual_seed(0)
    model = HuggingFaceCausalLM(folder, lora=lora, gradient_checkpointing=variant == "gradient_checkpointing").train()
    text = make_text(model, ROWS)
    weights = weights_of_conversations(
        EverySegmentLoss("increasing"), torch.ones(2, 4, dtype=torch.bool), text.video_index
    )
    results: list[tuple[Tensor, list[Tensor]]] = []
    for form in (every_reading, answer_loss_per_reading):
        torch.manual_seed(1)
        readings = make_readings(4)
        leaves = [reading.tokens for reading in readings] + [p for p in model.parameters() if p.requires_grad]
        loss = weighted_answer_loss(form(model, readings, text), weights)
        results.append((loss.detach(), list(torch.autograd.grad(loss, leaves))))
    (naive_loss, naive_gradients), (loss, gradients) = results
    torch.testing.assert_close(loss, naive_loss, rtol=1e-6, atol=0)
    for gradient, naive_gradient in zip(gradients, naive_gradients, strict=True):
        scale = float(naive_gradient.abs().max())
        torch.testing.assert_close(gradient, naive_gradient, rtol=0, atol=1e-6 * scale)
    assert all(bool(gradient.any()) for gradient in gradients[:4])


def test_memory_does_not_grow_with_the_number_of_readings_at_one_extra_forward_each(folder: str) -> None:
    model = HuggingFaceCausalLM(folder, freeze=True).train()
    text = make_text(model, ROWS)
    forwards = []
    model.model.register_forward_pre_hook(lambda *_: forwards.append(1))

    def peak_bytes(form: Callable[..., list[AnswerLoss]], num_readings: int) -> int:
        readings = make_readings(num_readings)
        forwards.clear()
        with LiveTensorBytes() as live:
            losses = form(model, readings, text)
            torch.stack([loss.nll for loss in losses]).sum().backward()  # type: ignore[no-untyped-call]
        return int(live.peak)

    single = peak_bytes(answer_loss_per_reading, 1)
    assert len(forwards) == 1
    assert peak_bytes(answer_loss_per_reading, 8) < 1.2 * single
    assert len(forwards) == 8 + 7  # the last reading runs once
    assert peak_bytes(every_reading, 8) > 5 * single


def test_readings_with_dropout_differ_between_readings(folder: str) -> None:
    model = HuggingFaceCausalLM(folder).train()
    text = make_text(model, ROWS)
    same = make_visual()
    losses = answer_loss_per_reading(model, [same, same], text)
    assert not torch.allclose(losses[0].nll, losses[1].nll)
    model.eval()
    losses = answer_loss_per_reading(model, [same, same], text)
    torch.testing.assert_close(losses[0], losses[1])


def test_benchmark_shows_its_limits_met_on_a_tiny_model(capsys: pytest.CaptureFixture[str]) -> None:
    small = "--layers 2 --width 32 --vocabulary 64 --visual-tokens 48 --words 48 --readings 6 --device cpu"
    assert main(small.split()) == 0
    table = capsys.readouterr().out
    assert "met" in table
    assert "ours   6" in table
