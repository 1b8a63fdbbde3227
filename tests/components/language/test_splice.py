import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.interfaces import IGNORED_LABEL, TEXT_ONLY, VIDEO_PLACEHOLDER, TextInputs, TokenPlaces, VisualTokens
from components.language.splice import SplicedInputs, splice

WIDTH = 4


def conversations(rows: list[list[int]], videos: list[int] | list[list[int]], padding: int = 0) -> TextInputs:
    """Conversations about these videos; a list of videos a conversation where one has several."""
    length = max(map(len, rows)) + padding
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    labels = torch.where(mask & (ids != VIDEO_PLACEHOLDER), ids, IGNORED_LABEL)
    return TextInputs(ids, mask, labels, torch.tensor(videos).view(len(rows), -1))


def embed(text: TextInputs) -> Tensor:
    """Embed every id as a vector of that id; padding and placeholders as a value that must not occur in results."""
    unread = ~text.text_mask | (text.input_ids == VIDEO_PLACEHOLDER)
    return text.input_ids.double().masked_fill(unread, torch.nan)[..., None].expand(-1, -1, WIDTH)


def videos(*masks: list[bool]) -> VisualTokens:
    """Token q of video v is the vector of 1000 * (v + 1) + q; masked tokens must not occur in results."""
    mask = torch.tensor(masks, dtype=torch.bool).reshape(len(masks), -1)
    values = 1000.0 * torch.arange(1, len(masks) + 1)[:, None] + torch.arange(mask.shape[1])
    return VisualTokens(values.double().masked_fill(~mask, torch.nan)[..., None].expand(-1, -1, WIDTH), mask)


def written(result: SplicedInputs) -> list[list[float]]:
    return [row[keep].tolist() for row, keep in zip(result.embeddings[..., 0], result.mask, strict=True)]


def test_visual_tokens_stand_where_the_placeholder_stood() -> None:
    text = conversations(
        [[7, VIDEO_PLACEHOLDER, 8, 9], [5, 6], [VIDEO_PLACEHOLDER, 4], [3, VIDEO_PLACEHOLDER]], [1, -1, 0, 1]
    )
    result = splice(videos([True, False, True], [True, True, True]), text, embed(text))
    assert written(result) == [[7, 2000, 2001, 2002, 8, 9], [5, 6], [1000, 1002, 4], [3, 2000, 2001, 2002]]
    assert result.labels[0].tolist() == [7, IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL, 8, 9]
    assert result.labels[1].tolist() == [5, 6, *[IGNORED_LABEL] * 4]
    assert result.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert not result.embeddings[~result.mask].any()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_splice_equals_joining_row_by_row(data: st.DataObject) -> None:
    num_videos = data.draw(st.integers(0, 3))
    slots = data.draw(st.integers(0, 4))
    flags = st.lists(st.booleans(), min_size=slots, max_size=slots)
    masks = [data.draw(flags) for _ in range(num_videos)]
    visual = videos(*masks) if masks else VisualTokens(torch.zeros(0, slots, WIDTH).double(), torch.zeros(0, slots) > 0)
    rows, index, expected = [], [], []
    media = st.lists(st.integers(0, num_videos - 1), max_size=3) if num_videos else st.just([])
    for _ in range(data.draw(st.integers(1, 4))):
        words = data.draw(st.lists(st.integers(1, 99), min_size=1, max_size=5))
        shown = data.draw(media)
        places = sorted(data.draw(st.integers(0, len(words))) for _ in shown)
        row, read = list[int](), list[float]()
        for video, start, end in zip([*shown, None], [0, *places], [*places, len(words)], strict=True):
            row += words[start:end]
            read += words[start:end]
            if video is not None:
                row.append(VIDEO_PLACEHOLDER)
                read += [1000.0 * (video + 1) + q for q in range(slots) if masks[video][q]]
        rows.append(row)
        expected.append(read)
        index.append(shown + [TEXT_ONLY] * (3 - len(shown)))
    text = conversations(rows, index, padding=data.draw(st.integers(0, 3)))
    result = splice(visual, text, embed(text))

    assert written(result) == expected
    assert result.mask.shape[1] == max(map(len, expected))  # padding of the text leaves no trace
    scored = [[label for label in row if label != IGNORED_LABEL] for row in result.labels.tolist()]
    assert scored == [[token for token in row if token < 1000] for row in expected]
    for mask, positions in zip(result.mask, result.position_ids, strict=True):
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)
        assert positions[mask].tolist() == list(range(int(mask.sum())))


def test_gradient_reaches_text_and_visual_tokens_and_no_masked_one() -> None:
    text = conversations([[7, VIDEO_PLACEHOLDER, 8], [VIDEO_PLACEHOLDER, 9], [4, 5]], [0, 0, TEXT_ONLY], padding=2)
    embedded = embed(text).nan_to_num().clone().requires_grad_()
    tokens = torch.randn(2, 3, WIDTH, dtype=torch.double, requires_grad=True)
    visual = VisualTokens(tokens, torch.tensor([[True, False, True], [True, True, True]]))
    splice(visual, text, embedded).embeddings.sum().backward()  # type: ignore[no-untyped-call]
    assert embedded.grad is not None
    assert tokens.grad is not None
    read = text.text_mask & (text.input_ids != VIDEO_PLACEHOLDER)
    torch.testing.assert_close(embedded.grad[..., 0], read.double())
    # Video 0 feeds two conversations, video 1 none.
    assert tokens.grad[..., 0].tolist() == [[2.0, 0.0, 2.0], [0.0, 0.0, 0.0]]


def test_unused_visual_tokens_stay_in_the_graph() -> None:
    text = conversations([[4, 5]], [TEXT_ONLY])
    tokens = torch.randn(1, 2, WIDTH, requires_grad=True)
    visual = VisualTokens(tokens, torch.zeros(1, 2, dtype=torch.bool))
    splice(visual, text, embed(text).float()).embeddings.sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    assert not tokens.grad.any()


def test_rows_of_conversations_go_before_their_video() -> None:
    text = conversations([[4, VIDEO_PLACEHOLDER], [5, 6], [VIDEO_PLACEHOLDER, 7]], [0, TEXT_ONLY, 0])
    rows = videos([True, False], [True, True])
    spliced = splice(rows._replace(row_index=torch.tensor([[1], [TEXT_ONLY], [0]])), text, embed(text))
    expected = splice(rows, text._replace(video_index=torch.tensor([[1], [TEXT_ONLY], [0]])), embed(text))
    assert spliced.mask.sum(dim=1).tolist() == [3, 2, 2]
    for one, other in zip(spliced[:4], expected[:4], strict=True):
        assert torch.equal(one, other)


def test_visual_tokens_take_the_dtype_of_the_text() -> None:
    text = conversations([[4, VIDEO_PLACEHOLDER]], [0])
    assert splice(videos([True]), text, embed(text).bfloat16()).embeddings.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("rows", "video_index", "message"),
    [
        ([[1, 2], [3, 4]], [TEXT_ONLY, 0], r"conversation 1: 0 placeholder\(s\), 1 expected"),
        ([[VIDEO_PLACEHOLDER, VIDEO_PLACEHOLDER]], [0], r"conversation 0: 2 placeholder\(s\), 1 expected"),
        ([[VIDEO_PLACEHOLDER, 2]], [TEXT_ONLY], r"conversation 0: 1 placeholder\(s\), 0 expected"),
        ([[VIDEO_PLACEHOLDER, 2]], [2], r"video_index 2.*The batch has 2 video"),
        ([[VIDEO_PLACEHOLDER, 2]], [-2], r"video_index -2"),
    ],
)
def test_text_and_videos_out_of_step_are_refused(rows: list[list[int]], video_index: list[int], message: str) -> None:
    text = conversations(rows, video_index)
    with pytest.raises(ValueError, match=message):
        splice(videos([True], [True]), text, embed(text))


def test_placeholder_under_padding_does_not_count() -> None:
    text = conversations([[1, 2, VIDEO_PLACEHOLDER]], [0])
    text.text_mask[0, 2] = False
    with pytest.raises(ValueError, match="0 placeholder"):
        splice(videos([True]), text, embed(text))


def test_the_media_of_a_conversation_stand_in_the_order_of_its_index() -> None:
    text = conversations(
        [[7, VIDEO_PLACEHOLDER, 8, VIDEO_PLACEHOLDER, 9], [VIDEO_PLACEHOLDER, VIDEO_PLACEHOLDER], [4, 5]],
        [[1, 0], [0, 0], [TEXT_ONLY, TEXT_ONLY]],
    )
    result = splice(videos([True, False, True], [True, True, True]), text, embed(text))
    assert written(result) == [[7, 2000, 2001, 2002, 8, 1000, 1002, 9], [1000, 1002, 1000, 1002], [4, 5]]
    assert result.labels[0].tolist() == [7, *[IGNORED_LABEL] * 3, 8, *[IGNORED_LABEL] * 2, 9]


def test_rows_of_media_go_before_their_videos() -> None:
    text = conversations([[VIDEO_PLACEHOLDER, 7, VIDEO_PLACEHOLDER], [VIDEO_PLACEHOLDER, 8]], [[0, 0], [0, TEXT_ONLY]])
    rows = videos([True, False], [True, True], [True, True], [False, False])
    result = splice(rows._replace(row_index=torch.tensor([[0, 1], [2, TEXT_ONLY]])), text, embed(text))
    assert written(result) == [[1000, 7, 2000, 2001], [3000, 3001, 8]]


@pytest.mark.parametrize(
    ("rows", "video_index", "message"),
    [
        (
            [[VIDEO_PLACEHOLDER, 2]],
            [[0, 1]],
            r"conversation 0: 1 placeholder\(s\), 2 expected \(video_index \[0, 1\]\)",
        ),
        ([[VIDEO_PLACEHOLDER, VIDEO_PLACEHOLDER]], [[0, 2]], r"video_index \[0, 2\]\).*The batch has 2 video"),
        ([[VIDEO_PLACEHOLDER, 2]], [[TEXT_ONLY, 0]], r"video_index \[-1, 0\]"),
    ],
)
def test_text_and_several_media_out_of_step_are_refused(
    rows: list[list[int]], video_index: list[list[int]], message: str
) -> None:
    text = conversations(rows, video_index)
    with pytest.raises(ValueError, match=message):
        splice(videos([True], [True]), text, embed(text))


def test_places_go_to_the_positions_of_their_tokens() -> None:
    visual = videos([True, False, True], [True, True, True])
    frame = torch.arange(6).view(2, 3)
    visual = visual._replace(places=TokenPlaces(frame, frame + 10, frame * 500))
    text = conversations([[7, VIDEO_PLACEHOLDER, 8, VIDEO_PLACEHOLDER], [5, 6]], [[1, 0], [TEXT_ONLY, TEXT_ONLY]])
    result = splice(visual, text, embed(text))
    assert result.places is not None
    assert result.places.frame[0].tolist() == [-1, 3, 4, 5, -1, 0, 2]
    assert result.places.cell[0].tolist() == [-1, 13, 14, 15, -1, 10, 12]
    assert result.places.ms[0].tolist() == [-1, 1500, 2000, 2500, -1, 0, 1000]
    for field in result.places:
        assert field[1].tolist() == [-1] * 7
        assert bool((field[~result.mask] == -1).all())


def test_tokens_without_places_have_none_in_the_sequence() -> None:
    text = conversations([[4, VIDEO_PLACEHOLDER]], [0])
    assert splice(videos([True]), text, embed(text)).places is None
