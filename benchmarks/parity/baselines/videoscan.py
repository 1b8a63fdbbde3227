"""VideoScan: the carriers of frames, the bounded memory of them, and which entries of a cache stay."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.parity.baselines.published_forms.videoscan_sequences import cache_entries, with_appended_carriers
from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, exact_check
from components.bridges.carrier_memory import (
    CarrierMemory,
    no_carriers,
    with_carrier,
)


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    if "k" in case.inputs:
        return _cache(case)
    if "carriers" in case.inputs:
        return _memory(case)
    if case.raises is not None:  # more frames than tokens: every token is a frame here
        tokens = with_appended_carriers(case.inputs["tokens"], case.options["frames"])
        return [exact_check("tokens", len(tokens), 2 * len(case.inputs["tokens"]))]
    return [case.output_check("tokens", with_appended_carriers(case.inputs["tokens"], case.options["frames"]))]


def _memory(case: RecordedCase) -> Sequence[Check]:
    carriers = case.inputs["carriers"]
    if case.raises is not None:
        return [_refused(case.options.get("limit", 64))]
    memory = CarrierMemory(carriers.shape[1], 1, max_carriers=case.options.get("limit", 64), as_published=True)
    state = no_carriers(carriers[None], memory.num_left)
    drops, sizes = [], []
    for number, carrier in enumerate(carriers):
        before = [*state.frame[0, : int(state.num_real)].tolist(), number]
        is_real = torch.ones(1, dtype=torch.bool)
        frame = torch.tensor([number])
        state = with_carrier(state, carrier[None], frame, frame, is_real)
        left = state.frame[0, : int(state.num_real)].tolist()
        drops.append([place for place, each in enumerate(before) if each not in left])
        sizes.append(len(left))
    checks = [case.output_check("memory", state.tokens[0, : int(state.num_real)])] if "memory" in case.outputs else []
    recorded = {name: case.outputs_json[name] for name in ("drops", "sizes") if name in case.outputs_json}
    ours = {"drops": drops, "sizes": sizes}
    return [*checks, *(exact_check(name, ours[name], theirs) for name, theirs in recorded.items())]


def _refused(limit: int) -> Check:
    try:
        CarrierMemory(1, 1, max_carriers=limit, as_published=True)
    except ValueError as error:
        return exact_check("refused", "max_carriers must be at least" in str(error), True)
    return exact_check("refused", False, True)


def _cache(case: RecordedCase) -> Sequence[Check]:
    system, query, current, past = (*case.options["sizes"], 0)[:4]
    num_more = case.options.get("add_kv", case.options.get("top_k", 0))
    dropped = case.options.get("drop_pos") or []
    entries = cache_entries(
        (system, query, current, past),
        tuple(dropped[0] if isinstance(dropped[0], list) else [dropped[0]]) if dropped else (),
        _attention(case, query, current),
        num_more,
    )
    checks = [case.output_check(name, case.inputs[name][:, :, entries]) for name in ("k", "v")]
    if "embeds" in case.outputs:
        checks.append(case.output_check("embeds", case.inputs["embeds"][:, -query:]))
    return checks


def _attention(case: RecordedCase, query: int, current: int) -> Tensor | None:
    """Attention of the carrier to the tokens of its frame, ``[H, N]``."""
    given = [case.inputs[name] for name in ("attn", "attention", "attentions", "attn_scores") if name in case.inputs]
    if not given:
        return None
    attention = given[0].flatten(0, -4)[0]  # [H, queries, entries]
    return attention[:, -query - 1, -query - current : -query - 1]
