from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.bridges.readouts.retrieved import RetrievedReadout
from components.bridges.recurrent import RecurrentMemoryBridge
from components.interfaces import TEXT_ONLY, MemoryState, Questions, VisualTokens
from tests.components.readers.reader_runs import DIM, LENGTHS, OUT_DIM, make_segments, walk

ASKED = [[3, 5], [4], [2, 1]]  # words of the questions about each of the three videos
NUM_QUERIES = 5


def make_bridge() -> RecurrentMemoryBridge:
    torch.manual_seed(0)
    readout = partial(RetrievedReadout, num_queries=NUM_QUERIES, num_heads=2)
    sizes = {"width": 8, "num_memory": 3, "num_heads": 2}
    bridge = RecurrentMemoryBridge(DIM, OUT_DIM, **sizes, recurrence="replacing", readout=readout)
    nn.init.constant_(bridge.gate, 0.7)
    return bridge


def make_questions(rows: list[tuple[int, int]], *, padding: int = 0, seeds: list[int] | None = None) -> Questions:
    """Random questions of (video, words); what is masked holds garbage, some of it in front of the question."""
    longest = max(words for _, words in rows) + padding
    embeddings = torch.full((len(rows), longest, OUT_DIM), 1e3)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, (seed, (_, words)) in enumerate(zip(seeds or range(len(rows)), rows, strict=True)):
        first = padding // 2
        content = torch.randn(words, OUT_DIM, generator=torch.Generator().manual_seed(100 + seed))
        embeddings[row, first : first + words] = content
        mask[row, first : first + words] = True
    return Questions(embeddings, mask, torch.tensor([[video] for video, _ in rows]))


ALL_ROWS = [(video, words) for video, asked in enumerate(ASKED) for words in asked]


def read(lengths: list[list[int]], questions: Questions, **padding: Any) -> VisualTokens:
    bridge = make_bridge()
    return bridge.read(walk(bridge, make_segments(lengths, **padding)), questions)


def test_every_conversation_has_tokens_of_its_own() -> None:
    visual = read(LENGTHS, make_questions(ALL_ROWS))
    assert visual.tokens.shape == (len(ALL_ROWS), NUM_QUERIES, OUT_DIM)
    assert bool(visual.mask.all())
    assert visual.row_index is not None
    assert visual.row_index.flatten().tolist() == list(range(len(ALL_ROWS)))
    assert not torch.allclose(visual.tokens[0], visual.tokens[1], atol=1e-4)  # another question about the same video


def test_the_same_question_about_another_video_has_other_tokens() -> None:
    visual = read(LENGTHS, make_questions([(0, 4), (1, 4)], seeds=[0, 0]))
    assert not torch.allclose(visual.tokens[0], visual.tokens[1], atol=1e-4)


def test_order_of_words_matters() -> None:
    questions = make_questions([(0, 4)])
    swapped = questions._replace(embeddings=questions.embeddings.flip(1))
    assert not torch.allclose(read(LENGTHS, questions).tokens, read(LENGTHS, swapped).tokens, atol=1e-4)


@pytest.mark.parametrize("padding", [1, 6])
def test_padding_of_text_and_segments_changes_nothing(padding: int) -> None:
    plain = read(LENGTHS, make_questions(ALL_ROWS))
    padded = read(LENGTHS, make_questions(ALL_ROWS, padding=padding), segments=3 + padding, frames=4)
    torch.testing.assert_close(padded.tokens, plain.tokens, rtol=1e-5, atol=1e-5)


def test_batch_equals_conversations_alone() -> None:
    together = read(LENGTHS, make_questions(ALL_ROWS))
    bridge = make_bridge()
    for row, (video, words) in enumerate(ALL_ROWS):
        state = walk(bridge, make_segments([LENGTHS[video]], seeds=[video]))
        alone = bridge.read(state, make_questions([(0, words)], seeds=[row]))
        torch.testing.assert_close(together.tokens[row], alone.tokens[0], rtol=1e-5, atol=1e-5)


def test_text_only_conversation_shows_no_row_and_disturbs_none() -> None:
    mixed = read(LENGTHS, make_questions([(TEXT_ONLY, 3), (1, 4)]))
    alone = read(LENGTHS, make_questions([(1, 4)], seeds=[1]))
    assert mixed.row_index is not None
    assert mixed.row_index.tolist() == [[TEXT_ONLY], [1]]
    torch.testing.assert_close(mixed.tokens[1], alone.tokens[0])


@pytest.mark.parametrize("rows", [ALL_ROWS, [(TEXT_ONLY, 3)]], ids=["videos", "text only"])
def test_every_parameter_gets_a_gradient(rows: list[tuple[int, int]]) -> None:
    bridge = make_bridge()
    visual = bridge.read(walk(bridge, make_segments(LENGTHS)), make_questions(rows))
    visual.tokens.square().sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in bridge.named_parameters() if parameter.grad is None] == []


def test_gradient_reaches_the_first_segments_frames_and_the_words_alone() -> None:
    segments = make_segments(LENGTHS)
    segments[0].tokens.requires_grad_()
    questions = make_questions([(0, 3), (1, 4), (2, 2)], padding=3)
    questions.embeddings.requires_grad_()
    bridge = make_bridge()
    bridge.read(walk(bridge, segments), questions).tokens.square().sum().backward()  # type: ignore[no-untyped-call]
    assert segments[0].tokens.grad is not None
    assert torch.equal(segments[0].tokens.grad.abs().amax(dim=2) > 0, segments[0].token_mask)
    assert questions.embeddings.grad is not None
    assert torch.equal(questions.embeddings.grad.abs().amax(dim=2) > 0, questions.mask)


def test_question_without_a_word_is_read_without_nan() -> None:
    empty = make_questions([(0, 2)])
    empty = empty._replace(mask=torch.zeros_like(empty.mask))
    assert bool(read(LENGTHS, empty).tokens.isfinite().all())


def test_attention_to_the_segments_is_each_questions_own_and_sums_to_one() -> None:
    bridge = make_bridge()
    attention = bridge.readout.segment_attention(walk(bridge, make_segments(LENGTHS)), make_questions(ALL_ROWS))
    assert attention.shape == (len(ALL_ROWS), NUM_QUERIES, 3)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(len(ALL_ROWS), NUM_QUERIES))
    assert not attention[2, :, 1:].any()  # the second video has one segment


def test_reading_without_a_question_is_refused() -> None:
    bridge = make_bridge()
    assert bridge.reads_questions
    with pytest.raises(ValueError, match="reads the memory for a question, got none"):
        bridge.read(walk(bridge, make_segments(LENGTHS)))


class TestRecall:
    """Every segment's memory holds a name and a value; the question holds, among other words, one of the names."""

    dim, num_names, num_values, batch_size = 32, 8, 4, 48

    def make(
        self, generator: torch.Generator, words: nn.Embedding, codes: Tensor
    ) -> tuple[MemoryState, Questions, Tensor]:
        size, num_segments = self.batch_size, 4
        rows = torch.arange(size)
        names = torch.stack([torch.randperm(self.num_names, generator=generator)[:num_segments] for _ in rows])
        values = torch.randint(self.num_values, (size, num_segments), generator=generator)
        memories = (codes[names] + codes[self.num_names + values]).unsqueeze(2)  # [V, segments, 1, D]
        ids = torch.randint(self.num_names, self.num_names + 5, (size, 6), generator=generator)
        place = torch.randint(6, (size,), generator=generator)
        asked = torch.randint(num_segments, (size,), generator=generator)
        ids[rows, place] = names[rows, asked]
        state = MemoryState(
            memory=memories[:, -1],
            gate_probability=torch.zeros(size),
            cache=tuple(memories.unbind(1)),
            cache_mask=(torch.ones(size, dtype=torch.bool),) * num_segments,
            admitted=(),
            cache_ms=tuple(torch.full((size,), segment * 100) for segment in range(num_segments)),
            end_ms=torch.full((size,), 400),
            last_input=memories[:, -1, :0],
            tokens=memories[:, -1],
            token_mask=torch.ones(size, 1, dtype=torch.bool),
        )
        return state, Questions(words(ids), torch.ones_like(ids, dtype=torch.bool), rows[:, None]), values[rows, asked]

    def test_learns_to_find_what_is_asked(self) -> None:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        codes = torch.randn(self.num_names + self.num_values, self.dim)
        words = nn.Embedding(self.num_names + 5, self.dim)
        readout = RetrievedReadout(self.dim, self.dim, num_queries=1, num_heads=4)
        head = nn.Linear(self.dim, self.num_values)
        parameters = [*readout.parameters(), *words.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=3e-3)
        accuracies = []
        for _ in range(180):
            state, questions, values = self.make(generator, words, codes)
            scores = head(readout(state, questions).tokens[:, 0])
            accuracies.append(float((scores.argmax(dim=1) == values).float().mean()))
            optimizer.zero_grad()
            functional.cross_entropy(scores, values).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        # The head does not see the question: a summary of all four values would let it guess about half of them.
        assert sum(accuracies[-20:]) / 20 > 0.9
