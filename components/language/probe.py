"""Asks a language model with two tokens whether it does what the part around it needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST_DIFFERENCE = 0.02  # of the largest logit; the two ways compute the same, and half precision rounds alike

# How models fail on what they do not know.
_REFUSALS = (ValueError, TypeError, RuntimeError, AttributeError, LookupError)


def embeddings_problem(model: Any, input_ids: Tensor, embeddings: Tensor) -> str | None:
    """Compare what a model makes of ids with what it makes of their embeddings.

    Some models read the ids beside the embeddings (Gemma-3n's and Gemma-4's embeddings of every layer); visual tokens
    have none.

    Args:
        model: A Hugging Face causal language model.
        input_ids: Two ids of text, ``[1, 2]``.
        embeddings: The same, embedded ``[1, 2, E]``.

    Returns:
        What is wrong, None where both agree.
    """
    name = type(model).__name__
    try:
        expected = model(input_ids=input_ids, use_cache=False).logits.float()
        got = model(inputs_embeds=embeddings, use_cache=False).logits.float()
    except _REFUSALS as error:
        return f"{name} does not run on embeddings, as visual tokens need ({type(error).__name__}: {error})"
    difference, largest = float((expected - got).abs().max()), float(expected.abs().max())
    if difference <= _LARGEST_DIFFERENCE * largest or not torch.isfinite(expected).all():
        return None
    return (
        f"{name} gives other logits for embeddings than for the ids that they are of (difference {difference:.3g}, "
        f"largest logit {largest:.3g}): it reads ids beside the embeddings, and visual tokens have none"
    )


def generation_problem(model: Any, embeddings: Tensor, is_sharded: bool) -> str | None:
    """Let a model generate two tokens after embeddings.

    Args:
        model: A Hugging Face causal language model.
        embeddings: Embedded text ``[1, 2, E]``.
        is_sharded: Whether all ranks must call it equally often.

    Returns:
        What is wrong, None where it can.
    """
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
    try:
        model.generate(inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=2, synced_gpus=is_sharded)
    except _REFUSALS as error:
        return f"{type(model).__name__} cannot answer ({type(error).__name__} while it generates: {error})"
    return None


def unused_parameters(model: Any, embeddings: Tensor) -> list[str]:
    """Names of the trainable parameters that a forward pass leaves out.

    Nothing is computed backward: the graph of the logits names what it was made of. Experts are not counted, for other
    tokens go to others.

    Args:
        model: A Hugging Face causal language model with its weights whole.
        embeddings: Embedded text with its graph, ``[1, 2, E]``.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    logits = model(inputs_embeds=embeddings, use_cache=False).logits
    used = {id(parameter) for parameter in _leaves(logits)}
    return sorted(name for name, each in trainable.items() if id(each) not in used and "expert" not in name)


def _leaves(result: Tensor) -> Iterator[Tensor]:
    """The tensors that require gradients and that a result was computed from."""
    waiting = [result.grad_fn]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable
        waiting += [following for following, _ in node.next_functions]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off; gradient checkpointing, which forbids a key-value cache, rests in this mode too."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
