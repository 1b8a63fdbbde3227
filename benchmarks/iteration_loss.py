"""Measures memory and time of the loss after every segment: ``python -m benchmarks.iteration_loss``.

Compares two ways to compute the language model's loss after each of K segments. The naive way calls the model K times
and stores K graphs. ``answer_loss_per_reading`` stores one graph and computes the others again in the backward pass.
Prints for each way and K: peak memory without parameters, visual tokens and their gradient; its ratio to K = 1; number
of forward passes of a step; largest relative difference of the gradients to the naive way; seconds a step. Exits with 1
if ours needs more than 1.2 times the memory of K = 1, or its gradients differ by more than 1e-6 (float32, CPU).

From the second reading on, accumulated gradients of the parameters are in memory beside one complete graph. Their size
is printed; with ``--freeze`` there are none. Memory is measured in two ways: bytes of all live tensors (exact; on CUDA
the allocator's own peak), and, with ``--rss``, the growth of the resident size of a process that runs nothing else
(Linux).
"""

import argparse
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedTokenizerFast

from benchmarks.command_options import add_numbers, numbers_in
from benchmarks.resident_memory import PeakResidentBytes, in_fresh_process
from benchmarks.tiny_parts import llama_config
from command_errors import run_and_exit
from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER, AnswerLoss, TextInputs, VisualTokens
from components.language.causal import HuggingFaceCausalLM
from components.losses import EverySegmentLoss, answer_loss_per_reading, weighted_answer_loss, weights_of_conversations

MEMORY_LIMIT = 1.2
GRADIENT_LIMIT = 1e-6
"""Relative to the largest entry of the same gradient."""


class Sizes(NamedTuple):
    """Shape of the model and of the batch."""

    layers: int = 4
    width: int = 128
    vocabulary: int = 1000
    videos: int = 2
    visual_tokens: int = 96
    conversations: int = 4
    words: int = 96
    answer_words: int = 16


class Measured(NamedTuple):
    """What was measured of one way at one K."""

    peak_bytes: int
    forwards: int
    seconds: float
    gradients: list[Tensor]


LossForm = Callable[[HuggingFaceCausalLM, Sequence[VisualTokens], TextInputs], list[AnswerLoss]]


def naive(model: HuggingFaceCausalLM, readings: Sequence[VisualTokens], text: TextInputs) -> list[AnswerLoss]:
    """Call the language model once a reading and store every graph."""
    return [model(reading, text) for reading in readings]


FORMS: dict[str, LossForm] = {"naive": naive, "ours": answer_loss_per_reading}


class LiveTensorBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensor storages that operators create while this is active and are still alive.

    Attributes:
        now: Bytes alive.
        peak: Most bytes that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        existing = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in existing | self._known:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def build_model(sizes: Sizes, device: torch.device, freeze: bool) -> HuggingFaceCausalLM:
    """A random Llama with dropout, so that equal gradients also show that dropout draws the same masks again."""
    special = ["<pad>", "<unk>", "<end>"]
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(special)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        chat_template="{% for message in messages %}{{ message['content'] }}<end>{% endfor %}",
    )
    config = llama_config(sizes.vocabulary, sizes.width, sizes.layers, attention_dropout=0.1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return HuggingFaceCausalLM(folder, weights="random", freeze=freeze).to(device).train()


def build_inputs(sizes: Sizes, num_readings: int, device: torch.device) -> tuple[list[VisualTokens], TextInputs]:
    """Random readings that need gradients, and conversations about them."""
    generator = torch.Generator().manual_seed(num_readings)
    shape = (sizes.videos, sizes.visual_tokens, sizes.width)
    readings = [
        VisualTokens(
            torch.randn(shape, generator=generator).to(device).requires_grad_(),
            torch.ones(shape[:2], dtype=torch.bool),
        )
        for _ in range(num_readings)
    ]
    ids = torch.randint(3, sizes.vocabulary, (sizes.conversations, sizes.words), generator=generator)
    labels = ids.clone()
    labels[:, : -sizes.answer_words] = IGNORED_LABEL
    ids[:, 2] = VIDEO_PLACEHOLDER
    video_index = torch.arange(sizes.conversations)[:, None] % sizes.videos
    return readings, TextInputs(ids, torch.ones_like(ids, dtype=torch.bool), labels, video_index)


def step(model: HuggingFaceCausalLM, form: LossForm, readings: Sequence[VisualTokens], text: TextInputs) -> None:
    """Forward and backward pass; every video has all K segments."""
    torch.manual_seed(1)
    segment_mask = readings[0].mask.new_ones(readings[0].mask.shape[0], len(readings))
    weights = weights_of_conversations(EverySegmentLoss(), segment_mask, text.video_index)
    loss = weighted_answer_loss(form(model, readings, text), weights)
    loss.backward()  # type: ignore[no-untyped-call]


def measure(sizes: Sizes, form: LossForm, num_readings: int, device: torch.device, freeze: bool) -> Measured:
    """Peak memory, forwards, time and gradients of a step; a first step warms up and gives the gradients."""
    model = build_model(sizes, device, freeze)
    readings, text = build_inputs(sizes, num_readings, device)
    step(model, form, readings, text)
    leaves = [*model.parameters(), *(reading.tokens for reading in readings)]
    gradients = [leaf.grad.detach().clone() for leaf in leaves if leaf.grad is not None]
    model.zero_grad()
    forwards = 0

    def count(*_: Any) -> None:
        nonlocal forwards
        forwards += 1

    hook = model.model.register_forward_pre_hook(count)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(model, form, readings, text)
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        with LiveTensorBytes() as live:
            step(model, form, readings, text)
        peak = live.peak
    hook.remove()
    model.zero_grad()
    _wait(device)
    start = time.perf_counter()
    step(model, form, readings, text)
    _wait(device)
    return Measured(peak, forwards, time.perf_counter() - start, gradients)


def resident_growth(sizes: Sizes, name: str, num_readings: int, freeze: bool) -> int:
    """Bytes by which one step raises the resident size of a fresh process at its peak."""
    return in_fresh_process(_resident_growth_here, sizes, name, num_readings, freeze)


def _resident_growth_here(sizes: Sizes, name: str, num_readings: int, freeze: bool) -> int:
    device = torch.device("cpu")
    model = build_model(sizes, device, freeze)
    readings, text = build_inputs(sizes, num_readings, device)
    with PeakResidentBytes() as peak:
        step(model, FORMS[name], readings, text)
    return peak.growth


def largest_difference(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Largest difference of any gradient, relative to its largest entry."""
    return max(
        float((mine - wanted).abs().max() / wanted.abs().max())
        for mine, wanted in zip(gradients, reference, strict=True)
        if bool(wanted.any())
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: Command line; the process's own if None.

    Returns:
        Exit status: 1 if ours misses a limit.
    """
    parser = argparse.ArgumentParser(description="Memory and exactness of the per-iteration loss.")
    add_numbers(parser, Sizes()._asdict())
    parser.add_argument("--readings", type=int, default=16, help="K, to compare with K = 1")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rss", action="store_true", help="also the resident size, one process a row (CPU)")
    parser.add_argument(
        "--freeze", action="store_true", help="freeze the model, so that only the visual tokens get gradients"
    )
    options = parser.parse_args(arguments)
    sizes = Sizes(**numbers_in(options, Sizes._fields))
    num_readings, device = options.readings, torch.device(options.device)

    rows = {
        (name, k): measure(sizes, FORMS[name], k, device, options.freeze) for name in FORMS for k in (1, num_readings)
    }
    inputs = sizes.videos * sizes.visual_tokens * sizes.width
    weights = sum(gradient.numel() for gradient in rows["ours", 1].gradients) - inputs
    print(f"{sizes} on {device}, torch {torch.__version__}; parameters' gradients {4 * weights / 2**20:.1f} MiB")
    print(f"{'form':>6} {'K':>3} {'peak MiB':>9} {'x K=1':>6} {'forwards':>9} {'gradient':>9} {'seconds':>8}", end="")
    print(f" {'RSS MiB':>8}" if options.rss else "")
    for (name, k), row in rows.items():
        ratio = row.peak_bytes / rows[name, 1].peak_bytes
        difference = largest_difference(row.gradients, rows["naive", k].gradients)
        print(f"{name:>6} {k:>3} {row.peak_bytes / 2**20:>9.1f} {ratio:>6.2f} {row.forwards:>9}", end="")
        print(f" {difference:>9.1e} {row.seconds:>8.2f}", end="")
        print(f" {resident_growth(sizes, name, k, options.freeze) / 2**20:>8.1f}" if options.rss else "")
    ours = rows["ours", num_readings]
    memory = ours.peak_bytes / rows["ours", 1].peak_bytes
    difference = largest_difference(ours.gradients, rows["naive", num_readings].gradients)
    # Atomic additions on CUDA have a different order each time.
    exact = difference <= (GRADIENT_LIMIT if device.type == "cpu" else 1e-4)
    met = memory <= MEMORY_LIMIT and exact and ours.forwards <= 2 * num_readings
    print(f"limits (memory {MEMORY_LIMIT} x, gradients, one extra forward a reading): {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    run_and_exit(main)
