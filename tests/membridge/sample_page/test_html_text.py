"""Texts of a page are escaped, and hold nothing that gives access to a store."""

import html

import pytest

from membridge.sample_page.html_text import escaped, message, size, without_credentials


@pytest.mark.parametrize("text", ["<b>&amp;</b>", "\"'", "a\nb\tc", "日本語 هل"])
def test_a_browser_shows_the_text_itself(text: str) -> None:
    assert html.unescape(escaped(text)) == text
    assert set(escaped(text)) & set("<>\"'") == set()


def test_control_characters_are_replaced() -> None:
    assert escaped("a\x00b\x1b[31m\x85c") == "a\ufffdb\ufffd[31m\ufffdc"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "shard https://host/a.tar?X-Signature=secret&x=1, key 'b': what? yes",
            "shard https://host/a.tar, key 'b': what? yes",
        ),
        ("shard https://me:secret@host/a.tar cannot be read", "shard https://host/a.tar cannot be read"),
        ("shard data/a.tar, key 'b@c': which?", "shard data/a.tar, key 'b@c': which?"),
    ],
)
def test_urls_lose_user_and_signature(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
    assert "secret" not in message(text)


@pytest.mark.parametrize(
    ("num_bytes", "shown"), [(0, "0 bytes"), (999, "999 bytes"), (1390, "1.39 kB"), (20e6, "20 MB"), (3.2e9, "3.2 GB")]
)
def test_sizes_have_three_digits_at_most(num_bytes: float, shown: str) -> None:
    assert size(num_bytes) == shown
