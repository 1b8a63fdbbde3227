"""A context token and content tokens of every frame."""

from functools import partial
from typing import Any

import pytest
import torch

from components.readers.readouts.context_token import ContextToken, context_of
from components.readers.token_store import TokenStore
from tests.components.readers.reader_runs import DIM, NUM_PATCHES, OUT_DIM, make_segments, questions_about, walk


def store(**options: Any) -> TokenStore:
    torch.manual_seed(0)
    return TokenStore(DIM, OUT_DIM, readout=partial(ContextToken, **options))


@pytest.mark.parametrize(("content", "number"), [("mean", 1), ("grid", 4), ("all", NUM_PATCHES)])
def test_every_frame_has_its_context_before_its_content(content: Any, number: int) -> None:
    reader, segments = store(content=content), make_segments([[3]])
    questions = questions_about([0])
    shown = reader.read(walk(reader, segments), questions).tokens[0].unflatten(0, (3, 1 + number))
    grids = segments[0].tokens.unflatten(1, (3, NUM_PATCHES))
    words = reader.readout.query(questions.embeddings)
    for frame in range(3):
        patches = grids[0, frame]
        weights = (words[0] @ reader.readout.key(patches).T / DIM**0.5).softmax(dim=1)
        found = (weights @ patches)[questions.mask[0]].mean(dim=0)
        torch.testing.assert_close(shown[frame, 0], reader.readout.value(found))
        content_of = patches.mean(dim=0, keepdim=True) if content == "mean" else patches
        torch.testing.assert_close(shown[frame, 1:], reader.readout.projection(content_of))


def test_the_context_depends_on_the_question_and_the_content_does_not() -> None:
    reader = store()
    state = walk(reader, make_segments([[2]]))
    questions = questions_about([0])
    other = questions._replace(embeddings=questions.embeddings + torch.randn_like(questions.embeddings))
    one, two = (reader.read(state, each).tokens[0].unflatten(0, (2, 2)) for each in (questions, other))
    assert not torch.allclose(one[:, 0], two[:, 0])
    torch.testing.assert_close(one[:, 1], two[:, 1])


def test_without_a_word_every_patch_counts_alike() -> None:
    grids = torch.randn(1, 2, 4, DIM)
    none = torch.zeros(1, 3, dtype=torch.bool)
    found = context_of(torch.randn(1, 3, DIM), none, grids, torch.nn.Identity())
    torch.testing.assert_close(found, grids.mean(dim=2))


def test_what_is_missing_or_wrong_is_named() -> None:
    reader = store()
    with pytest.raises(ValueError, match="reads the video for a question, got none"):
        reader.read(walk(reader, make_segments([[1]])))
    with pytest.raises(ValueError, match="content must be one of"):
        store(content="some")
    with pytest.raises(ValueError, match="grid must be at least 1"):
        store(grid=0)
