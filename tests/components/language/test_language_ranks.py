"""Where weights are sharded, every rank calls embeddings and network equally often and in the same order."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import nn

from components.interfaces import TEXT_ONLY, DecodingSettings
from components.language.causal import HuggingFaceCausalLM
from components.sharding import Sharding, building_sharded
from tests.components.tiny_language import RECURRENT, make_model_folder, make_text, make_visual

SECONDS_UNTIL_HUNG = 30.0
SHARED = [(0, "what colour ?", None), (0, "how many ?", None), (0, "say hello", None)]
ALONE = [(1, "what colour ?", None)]
TEXT = [(TEXT_ONLY, "say hello", None)]


class Rank(Sharding):
    """One of several ranks, each a thread.

    Args:
        rank: Its number.
        values: What each rank gives; shared.
        barrier: Lets the ranks wait for each other.
    """

    def __init__(self, rank: int, values: list[int], barrier: Barrier) -> None:
        self.rank, self.values, self.barrier = rank, values, barrier

    def shard(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        """Every thread keeps all weights."""

    def largest_of_all_ranks(self, value: int) -> int:
        self.values[self.rank] = value
        self.barrier.wait()
        largest = max(self.values)
        self.barrier.wait()
        return largest


class RecordedParameters(dict[str, Any]):
    """Parameters of a module that record each reading of an attribute: ZeRO-3 gathers a weight from all ranks then."""

    def __init__(self, parameters: dict[str, Any], called: list[str]) -> None:
        super().__init__(parameters)
        self.called = called

    def __getitem__(self, name: str) -> Any:
        self.called.append(f"reads {name}")
        return super().__getitem__(name)


def calls_of_ranks(
    folder: Path, work: Callable[[HuggingFaceCausalLM, Any], Any], rows: list[Any]
) -> tuple[list[list[str]], list[Any]]:
    """Do work on every rank at once, each with its own conversations.

    Returns:
        What every rank has called, in order, and what its work returned.
    """
    values, barrier = [0] * len(rows), Barrier(len(rows), timeout=SECONDS_UNTIL_HUNG)
    models, calls = [], []
    for rank in range(len(rows)):
        with building_sharded(Rank(rank, values, barrier)):
            model = HuggingFaceCausalLM(str(folder)).eval()
        called: list[str] = []
        table = model.model.get_input_embeddings()
        table._parameters = RecordedParameters(table._parameters, called)
        table.register_forward_hook(lambda *_, c=called: c.append("embeddings"))
        model.model.register_forward_hook(lambda *_, c=called: c.append("network"))
        models.append(model)
        calls.append(called)
    with ThreadPoolExecutor(len(rows)) as pool:
        results = list(pool.map(work, models, rows))
    return calls, results


def generate(model: HuggingFaceCausalLM, rows: Any) -> list[str]:
    # Answers of random weights have all lengths, because every third token ends them.
    model.chat.stop_ids = [*model.chat.stop_ids, *range(0, 272, 3)]
    return model.generate(make_visual((20, 5)), make_text(model, rows), 8)


def score(model: HuggingFaceCausalLM, rows: Any) -> list[Any]:
    return model.score_options(make_visual((20, 5)), make_text(model, rows), [["red", "blue circle"]] * len(rows))


def score_one_token(model: HuggingFaceCausalLM, rows: Any) -> list[Any]:
    options = [[""] if rows is ALONE else ["red", "blue circle"]] * len(rows)
    return model.score_options(make_visual((20, 5)), make_text(model, rows), options)


def chat(model: HuggingFaceCausalLM, rows: Any) -> list[str]:
    model.chat.stop_ids = [*model.chat.stop_ids, *range(0, 272, 3)]
    state = model.prefill(make_visual((20, 5)), make_text(model, rows))
    state = model.decode(state, DecodingSettings(4)).state
    state = model.extend(state, make_text(model, [(TEXT_ONLY, "and then ?", None)] * len(rows)))
    return model.decode(state, DecodingSettings(6)).texts


def answer_and_score(model: HuggingFaceCausalLM, rows: Any) -> list[Any]:
    model.chat.stop_ids = [*model.chat.stop_ids, *range(0, 272, 3)]
    options = [[[7, 8, 9], "blue circle"]] * len(rows)
    return model.answer_and_score(make_visual((20, 5)), make_text(model, rows), 8, options)[1]


WORK = {
    "llama": [generate, score, score_one_token, chat, answer_and_score],
    "lfm2": [generate, score, score_one_token, answer_and_score],
}


@pytest.mark.parametrize(("model_type", "work"), [(name, work) for name, works in WORK.items() for work in works])
def test_ranks_with_other_conversations_make_the_same_calls(
    tmp_path: Path, model_type: str, work: Callable[..., Any]
) -> None:
    layers = RECURRENT.get(model_type, {})
    folder = make_model_folder(tmp_path, model_type, **layers)
    ranks = [SHARED, ALONE, TEXT, SHARED + ALONE + TEXT]
    calls, results = calls_of_ranks(folder, work, ranks)
    assert calls[0]
    assert all(called == calls[0] for called in calls)
    alone = [work(HuggingFaceCausalLM(str(folder)).eval(), rows) for rows in ranks]
    if work in (generate, chat):
        assert results == alone
    else:
        torch.testing.assert_close(results, alone)
