from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from components.interfaces import TEXT_ONLY, TokenPlaces, VisualTokens
from components.visual_prompt import PieceTokens, VisualPrompt

WIDTH = 2
ABOUT = torch.tensor([[0, TEXT_ONLY], [TEXT_ONLY, TEXT_ONLY], [1, 0]])  # media of three conversations
OF_MEDIA = torch.tensor([[0, TEXT_ONLY], [TEXT_ONLY, TEXT_ONLY], [4, 5]])  # their rows, one a medium


class WordLengths(torch.nn.Module):
    """Stands in for a language model: a word's only token is its length, and an id is embedded as itself."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def word_ids(self, words: str) -> list[int]:
        return [len(word) for word in words.split()]

    def embed(self, input_ids: Tensor) -> Tensor:
        self.calls += 1
        assert input_ids.dtype == torch.int64  # as every table of embeddings asks for
        return input_ids.float()[..., None].expand(-1, -1, WIDTH)


def stream(values: Sequence[Sequence[float]], *, of_media: bool = False, places: bool = False) -> VisualTokens:
    """Tokens of these values a row; 0 is a masked token."""
    tokens = torch.tensor(values)[..., None].expand(-1, -1, WIDTH)
    frame = torch.tensor(values).long()
    where = TokenPlaces(frame, frame + 1, frame + 2) if places else None
    return VisualTokens(tokens, tokens[..., 0] != 0, OF_MEDIA if of_media else None, where)


NEWLINE = torch.full((WIDTH,), -7.0)


def joined(prompt: str, streams: dict[str, VisualTokens], left_out: Sequence[str] = ()) -> VisualTokens:
    visual_prompt = VisualPrompt(prompt, streams)
    return visual_prompt.join(streams, visual_prompt.embed_words(WordLengths(), NEWLINE), ABOUT, left_out)


def shown(visual: VisualTokens) -> list[list[float]]:
    """Values of the real tokens of every row."""
    return [row[mask][:, 0].tolist() for row, mask in zip(visual.tokens, visual.mask, strict=True)]


MEMORY = [[100.0, 101.0], [110.0, 111.0]]
FRAMES = [[200.0, 0.0, 202.0], [210.0, 211.0, 0.0]]


def test_words_and_streams_follow_each_other_as_the_prompt_says() -> None:
    streams = {"memory": stream(MEMORY), "frames": stream(FRAMES)}
    visual = joined("a bb<frames>ccc<memory> dddd", streams)
    assert shown(visual) == [[1, 2, 200, 202, 3, 100, 101, 4], [1, 2, 210, 211, 3, 110, 111, 4]]
    assert visual.row_index is None


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        (["frames"], [[3, 100, 101, 4], [3, 110, 111, 4]]),
        (["memory"], [[1, 2, 200, 202, 4], [1, 2, 210, 211, 4]]),
        (["something else"], [[1, 2, 200, 202, 3, 100, 101, 4], [1, 2, 210, 211, 3, 110, 111, 4]]),
    ],
)
def test_stream_is_left_out_with_the_words_before_it(left_out: list[str], expected: list[list[float]]) -> None:
    streams = {"memory": stream(MEMORY), "frames": stream(FRAMES)}
    assert shown(joined("a bb<frames>ccc<memory> dddd", streams, left_out)) == expected


def test_a_stream_of_its_own_without_words_is_given_as_it_is() -> None:
    memory, frames = stream(MEMORY), stream(FRAMES)
    assert joined("<memory>", {"memory": memory}) is memory
    assert joined("<memory><frames>", {"memory": memory, "frames": frames}, ["frames"]) is memory


def test_streams_of_videos_get_the_rows_of_those_that_read_questions() -> None:
    asked = stream([[float(row + 1)] for row in range(6)], of_media=True)
    visual = joined("a<frames><asked>", {"asked": asked, "frames": stream(FRAMES)})
    assert visual.row_index is not None
    assert visual.row_index.tolist() == OF_MEDIA.tolist()
    rows = shown(visual)
    assert rows[0] == [1, 200, 202, 1]
    assert rows[4] == [1, 210, 211, 5]
    assert rows[5] == [1, 200, 202, 6]


def test_places_are_joined_and_words_have_none() -> None:
    visual = joined("a<memory>bb<frames>", {"memory": stream(MEMORY), "frames": stream(FRAMES, places=True)})
    assert visual.places is not None
    assert visual.places.frame[0].tolist() == [-1, -1, -1, -1, 200, 0, 202]
    assert visual.places.ms[1].tolist() == [-1, -1, -1, -1, 212, 213, 2]
    assert joined("a<memory>", {"memory": stream(MEMORY)}).places is None


def test_places_follow_their_rows_where_another_stream_reads_questions() -> None:
    asked = stream([[float(row + 1)] for row in range(6)], of_media=True)
    visual = joined("<asked><frames>", {"asked": asked, "frames": stream(FRAMES, places=True)})
    assert visual.places is not None
    assert visual.places.frame[4].tolist() == [-1, 210, 211, 0]


def test_gradient_reaches_words_and_streams() -> None:
    words = torch.ones(2, WIDTH, requires_grad=True)
    newline = torch.ones(1, WIDTH, requires_grad=True)
    memory = torch.ones(2, 3, WIDTH, requires_grad=True)
    frames = torch.ones(2, 1, WIDTH, requires_grad=True)
    streams = {
        "memory": VisualTokens(memory, torch.ones(2, 3, dtype=torch.bool)),
        "frames": VisualTokens(frames, torch.ones(2, 1, dtype=torch.bool)),
    }
    prompt = VisualPrompt("a bb<memory><frames><newline>", streams)
    pieces = [PieceTokens(words, None), PieceTokens(torch.ones(0, WIDTH), newline)]
    prompt.join(streams, pieces, ABOUT).tokens.sum().backward()  # type: ignore[no-untyped-call]
    assert words.grad is not None
    assert words.grad.tolist() == [[2.0] * WIDTH] * 2  # a row for every video
    assert newline.grad is not None
    assert newline.grad.tolist() == [[2.0] * WIDTH]
    assert memory.grad is not None
    assert frames.grad is not None


def test_words_are_embedded_in_one_call_and_counted() -> None:
    language_model = WordLengths()
    prompt = VisualPrompt("a bb<memory><frames>ccc", ["memory", "frames"])
    embedded = prompt.embed_words(language_model)
    assert [piece.words[:, 0].tolist() for piece in embedded] == [[1, 2], [], [3]]
    assert language_model.calls == 1
    assert prompt.count_words(language_model) == 3
    assert VisualPrompt("<memory>", ["memory"]).embed_words(language_model) == []
    assert language_model.calls == 1


def test_a_newline_follows_its_stream_and_is_left_out_with_it() -> None:
    streams = {"memory": stream(MEMORY), "frames": stream(FRAMES)}
    prompt = "a<memory><newline>bb<frames><newline>"
    assert shown(joined(prompt, streams))[1] == [1, 110, 111, -7, 2, 210, 211, -7]
    assert shown(joined(prompt, streams, ["frames"]))[1] == [1, 110, 111, -7]
    assert shown(joined("<memory><newline>", {"memory": stream(MEMORY)}))[0] == [100, 101, -7]
    assert VisualPrompt(prompt, streams).count_words(WordLengths()) == 4
    assert VisualPrompt(prompt, streams).count_words(WordLengths(), ["frames"]) == 2


@pytest.mark.parametrize("prompt", ["<newline><memory>", "<memory>a<newline>", "<memory><newline><newline>"])
def test_a_newline_that_does_not_follow_a_stream_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="<newline> may only follow a stream, once"):
        VisualPrompt(prompt, ["memory"])


@pytest.mark.parametrize(
    "prompt", ["", "words alone", "<memory>", "<memory><memory><frames>", "<memory><frames><audio>"]
)
def test_prompt_that_does_not_name_every_stream_once_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="the model's readers are frames, memory: name every one of them once"):
        VisualPrompt(prompt, ["memory", "frames"])


def test_leaving_out_every_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="all streams of 'a<memory>' are left out"):
        joined("a<memory>", {"memory": stream(MEMORY)}, ["memory"])


def test_words_without_a_token_change_nothing() -> None:
    streams = {"memory": stream(MEMORY), "frames": stream(FRAMES)}
    assert shown(joined(" <memory>\n<frames> ", streams)) == shown(joined("<memory><frames>", streams))


def test_no_stream_loses_precision_to_another() -> None:
    memory = stream([[1.0001], [1.0002]])
    half = stream(FRAMES)._replace(tokens=torch.ones(2, 3, WIDTH, dtype=torch.bfloat16))
    for prompt in ("<frames><memory>", "<memory><frames>"):
        tokens = joined(prompt, {"memory": memory, "frames": half}).tokens
        assert (tokens == memory.tokens[0, 0, 0]).any()
