"""MA-LMM: one merge, the bank of a video, and both banks with the layers that read them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, exact_check
from components.bridges.layers.query_layer import GeluFeedForward, QueryLayer
from components.bridges.merging_bank import MergingBank, with_queries
from components.merging.position_bank import PositionBank, merge_by_position

NAMES = {
    "self_attention.query": "attention.self.query",
    "self_attention.key": "attention.self.key",
    "self_attention.value": "attention.self.value",
    "self_attention.output": "attention.output.dense",
    "self_attention.norm": "attention.output.LayerNorm",
    "cross_attention.query": "crossattention.self.query",
    "cross_attention.key": "crossattention.self.key",
    "cross_attention.value": "crossattention.self.value",
    "cross_attention.output": "crossattention.output.dense",
    "cross_attention.norm": "crossattention.output.LayerNorm",
    "feed_forward.expand": "intermediate_query.dense",
    "feed_forward.contract": "output_query.dense",
    "feed_forward.norm": "output_query.LayerNorm",
}
NAMES_OF_WORDS = {"expand": "intermediate.dense", "contract": "output.dense", "norm": "output.LayerNorm"}


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare one recorded call."""
    if "query_tokens" in case.inputs:
        return _both_banks(case)
    if "size" in case.inputs:
        entries, sizes = case.inputs["bank"], case.inputs["size"]
        if case.raises is not None:
            return [_refused(entries, sizes)]
        merged = merge_by_position(entries, sizes, torch.full((len(entries),), entries.shape[1]))
        return [case.output_check(name, ours) for name, ours in zip(("bank", "size"), merged, strict=True)]
    frames = case.inputs["frames"]
    bank = _bank(case.options["memory_bank_length"], frames)
    count = int(bank.num_real[0])
    fields = {"bank": bank.entries, "size": bank.sizes}
    return [case.output_check(name, field[:, :count]) for name, field in fields.items() if name in case.outputs]


def _refused(entries: Tensor, sizes: Tensor) -> Check:
    try:
        merge_by_position(entries, sizes, torch.full((len(entries),), entries.shape[1]))
    except ValueError as error:
        return exact_check("refused", "needs two entries or more" in str(error), True)
    return exact_check("refused", False, True)


def _bank(limit: int, frames: Tensor) -> PositionBank:
    """The bank of frames after a video ``[V, T, N, C]``."""
    part = MergingBank(frames.shape[3], 1, num_memory=limit, num_heads=1, as_published=True)
    bank = PositionBank.empty(frames[:, 0], limit + 1)
    for frame in frames.unbind(1):
        bank = part.with_frame(bank, frame, torch.ones(len(frames), dtype=torch.bool))
    return bank


def _both_banks(case: RecordedCase) -> Sequence[Check]:
    """Every frame is a segment; words stand behind the queries, as published."""
    limit, inputs = case.options["memory_bank_length"], case.inputs
    frames = inputs["frames"] + inputs["image_pe"][: inputs["frames"].shape[1], None]
    layers = [_layer(case, number) for number in range(case.options["layers"])]
    start, mask = _start(case)
    banks = [PositionBank.empty(start, limit + 1) for _ in layers]
    is_real = torch.ones(len(start), dtype=torch.bool)
    outputs = []
    for number in range(frames.shape[1]):
        bank = _bank(limit, frames[:, : number + 1])
        hidden = start
        for place, (layer, words) in enumerate(layers):
            earlier, earlier_mask = banks[place].entries.flatten(1, 2), banks[place].token_mask
            earlier_mask = earlier_mask & mask.repeat(1, limit + 1)
            banks[place] = with_queries(banks[place], hidden, is_real, detached=True)
            if number + 1 == case.options.get("num_frames"):  # the video is over, as far as the published code knows
                banks[place] = PositionBank.empty(start, limit + 1)
            read = layer.read_itself(hidden, mask, earlier, earlier_mask)
            queries, text = read.split_with_sizes([case.options["nq"], read.shape[1] - case.options["nq"]], dim=1)
            queries = layer.read_context(queries, bank.entries.flatten(1, 2), bank.token_mask)
            hidden = torch.cat([layer.feed_forward(queries), words(text)], dim=1)
        outputs.append(hidden)
    queries_alone = torch.stack(outputs, dim=1)[:, :, : case.options["nq"]]
    named = {"all_query": queries_alone, "first": outputs[0], "last": outputs[-1]}
    return [case.output_check(name, named[name]) for name in case.outputs]


def _start(case: RecordedCase) -> tuple[Tensor, Tensor]:
    """The queries and the words behind them, normalised, and which are real."""
    ids, weights = case.inputs.get("text_ids"), case.inputs
    queries = weights["query_tokens"].expand(len(weights["frames"]), -1, -1)
    mask = torch.ones_like(queries[..., 0], dtype=torch.bool)
    start = queries
    if ids is not None:
        words = weights["w.embeddings.word_embeddings.weight"][ids]
        words = words + weights["w.embeddings.position_embeddings.weight"][: ids.shape[1]]
        start = torch.cat([queries, words], dim=1)
        mask = torch.cat([mask, weights["text_mask"].bool()], dim=1)
    norm = (weights["w.embeddings.LayerNorm.weight"], weights["w.embeddings.LayerNorm.bias"])
    return torch.nn.functional.layer_norm(start, start.shape[-1:], *norm, eps=1e-12), mask


def _layer(case: RecordedCase, number: int) -> tuple[QueryLayer, GeluFeedForward]:
    """A layer with the recorded weights, and what transforms words in it."""
    options, prefix = case.options, f"w.encoder.layer.{number}."
    inner = len(case.inputs[f"{prefix}intermediate_query.dense.bias"])
    context_width = options["width"] if f"{prefix}crossattention.self.key.weight" in case.inputs else None
    layer = QueryLayer(options["hidden"], context_width, options["heads"], inner)
    words = GeluFeedForward(options["hidden"], inner)
    for module, names in ((layer, NAMES), (words, NAMES_OF_WORDS)):
        keys = {key: key.rsplit(".", 1) for key in module.state_dict()}
        module.load_state_dict({key: case.inputs[f"{prefix}{names[name]}.{end}"] for key, (name, end) in keys.items()})
    return layer, words
