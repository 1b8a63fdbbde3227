"""Texts of a sample are shortened, and say by how much."""

from datamodules.shards.schema import Conversation, Record, Turn
from datamodules.shards.shard_reader import RawSample
from membridge.sample_page.sample_texts import MOST_CONVERSATIONS, TextBudget, shown_conversations


def sample(num_conversations: int, length: int) -> RawSample:
    turns = (Turn("user", "q"), Turn("assistant", "a" * length))
    conversations = [Conversation(f"q{number}", "", (), turns) for number in range(num_conversations)]
    return RawSample("key", "shard x, key 'key'", Record("made", None, None, {}, tuple(conversations)), ())


def test_a_short_text_stays_as_it_is() -> None:
    assert TextBudget().shortened("Which colour?") == "Which colour?"


def test_a_long_text_says_how_much_is_left_out() -> None:
    shown = TextBudget(10).shortened("a" * 1250)
    assert shown == "a" * 10 + " … (1,240 more characters)"


def test_all_texts_of_a_sample_stay_within_a_budget() -> None:
    shown = shown_conversations(sample(100, 100_000), None)
    assert len(shown) == MOST_CONVERSATIONS
    assert sum(len(turn.content) for one in shown for turn in one.turns) < 45_000


def test_tokens_are_not_counted_without_a_tokenizer() -> None:
    assert [one.num_tokens for one in shown_conversations(sample(2, 3), None)] == [None, None]
