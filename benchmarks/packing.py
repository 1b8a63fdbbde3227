"""Measures what packing conversations saves: ``python -m benchmarks.packing``.

The language model scores the same batches twice: with each conversation padded to the longest of its batch, and with
several conversations in one row. Prints for both, summed over the batches: positions computed; their share of real
tokens; seconds of a forward pass, and with its backward pass; peak memory of a step without parameters and inputs; and
the difference of the losses. Exits with 1 if a conversation's loss differs by more than 1e-5 a token (float32, CPU).

Lengths are random: the number of words is log-normal (many short answers and few long ones, as in instruction data), a
share of the conversations is text only, and videos have a fixed number of visual tokens.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.command_options import CLOCKS, add_clock_option, add_numbers, numbers_in
from benchmarks.iteration_loss import LiveTensorBytes, Sizes, build_model
from command_errors import run_and_exit
from components.interfaces import IGNORED_LABEL, TEXT_ONLY, VIDEO_PLACEHOLDER, TextInputs, VisualTokens
from components.language.causal import HuggingFaceCausalLM

LOSS_LIMIT = 1e-5
"""Largest difference of a conversation's loss a token."""


class Batches(NamedTuple):
    """What is scored."""

    batches: int = 3
    conversations: int = 16
    visual_tokens: int = 64
    median_words: int = 80
    most_words: int = 768


class Measured(NamedTuple):
    """One form over all batches."""

    positions: int
    forward_seconds: float
    step_seconds: float
    peak_bytes: int
    losses: Tensor  # [conversations of all batches], a token


def build_batch(settings: Batches, sizes: Sizes, seed: int, device: torch.device) -> tuple[VisualTokens, TextInputs]:
    """Conversations of random lengths, a fifth of them text only; the second half of each is scored."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(settings.conversations, generator=generator)  # of the logarithm, standard deviation 1
    lengths = (settings.median_words * spread.exp()).long().clamp(8, settings.most_words)  # [C]
    longest = int(lengths.max())
    ids = torch.randint(3, sizes.vocabulary, (settings.conversations, longest), generator=generator)
    positions = torch.arange(longest)
    mask = positions < lengths[:, None]
    labels = ids.where(mask & (positions >= lengths[:, None] // 2), torch.tensor(IGNORED_LABEL))
    video_index = torch.arange(settings.conversations)
    video_index[::5] = TEXT_ONLY
    ids[video_index != TEXT_ONLY, 2] = VIDEO_PLACEHOLDER
    shape = (settings.conversations, settings.visual_tokens)
    tokens = torch.randn(*shape, sizes.width, generator=generator).to(device).requires_grad_()
    return VisualTokens(tokens, torch.ones(shape, dtype=torch.bool)), TextInputs(
        ids, mask, labels, video_index[:, None]
    )


def measure(
    model: HuggingFaceCausalLM, batches: Sequence[tuple[VisualTokens, TextInputs]], clock: Callable[[], float]
) -> Measured:
    """Score every batch, and compute its gradients twice: once for the time and once for the memory."""
    positions = 0

    def count(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        nonlocal positions
        positions += arguments["inputs_embeds"].shape[:2].numel()

    losses, forward, step, peak = [], 0.0, 0.0, 0
    for visual, text in batches:
        peak = max(peak, _peak_of_step(model, visual, text))
        counting = model.model.register_forward_pre_hook(count, with_kwargs=True)
        start = _now(clock, visual)
        loss = model(visual, text)
        middle = _now(clock, visual)
        loss.nll.sum().backward()
        step += _now(clock, visual) - start
        forward += middle - start
        counting.remove()
        model.zero_grad()
        losses.append(loss.nll.detach() / loss.num_tokens)
    return Measured(positions, forward, step, peak, torch.cat(losses))


def _peak_of_step(model: HuggingFaceCausalLM, visual: VisualTokens, text: TextInputs) -> int:
    if visual.tokens.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(visual, text).nll.sum().backward()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with LiveTensorBytes() as live:
            model(visual, text).nll.sum().backward()
        peak = live.peak
    model.zero_grad()
    return peak


def _now(clock: Callable[[], float], visual: VisualTokens) -> float:
    if visual.tokens.device.type == "cuda":
        torch.cuda.synchronize()
    return clock()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table.

    Args:
        arguments: Command line; the process's own if None.

    Returns:
        Exit status: 1 if the losses differ.
    """
    parser = argparse.ArgumentParser(description="Compare padded and packed conversations.")
    add_numbers(parser, Batches()._asdict())
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_clock_option(parser)
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    settings = Batches(**numbers_in(options, Batches._fields))
    sizes, device = Sizes(layers=options.layers, width=options.width), torch.device(options.device)

    batches = [build_batch(settings, sizes, seed, device) for seed in range(settings.batches)]
    model = build_model(sizes, device, freeze=False).eval()  # without dropout, whose masks depend on the rows
    rows = {}
    for name, model.pack in (("padded", False), ("packed", True)):
        rows[name] = measure(model, batches, CLOCKS[options.clock])
    real = sum(
        int(text.text_mask.sum() + (text.video_index != TEXT_ONLY).sum() * (settings.visual_tokens - 1))
        for _, text in batches
    )
    padded = rows["padded"]
    print(f"{settings}, {sizes.layers} layers of width {sizes.width}, {device}, torch {torch.__version__}, float32")
    print("| form | positions | real tokens | forward s | both s | x | peak MiB | loss difference |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| {name} | {row.positions} | {real / row.positions:.0%} | {row.forward_seconds:.2f} "
            f"| {row.step_seconds:.2f} | {padded.step_seconds / row.step_seconds:.1f} | {row.peak_bytes / 2**20:.0f} "
            f"| {float((row.losses - padded.losses).abs().max()):.1e} |"
        )
    # Other kernels run on CUDA, where float32 products may be rounded to TF32.
    limit = LOSS_LIMIT if device.type == "cpu" else 1e-3
    same = bool(((rows["packed"].losses - padded.losses).abs() <= limit).all())
    print(f"largest difference of a conversation's loss a token within {limit:g}: {'yes' if same else 'NO'}")
    return 0 if same else 1


if __name__ == "__main__":
    run_and_exit(main)
