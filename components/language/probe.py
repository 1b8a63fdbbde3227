"""Runs a language model on two tokens to find out whether it works with embeddings instead of ids."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LARGEST_DIFFERENCE = 0.02  # relative to the largest logit; covers rounding in half precision

UNSUPPORTED = (ValueError, TypeError, RuntimeError, AttributeError, LookupError)
"""Errors that models raise on unsupported inputs."""


def embeddings_problem(model: Any, input_ids: Tensor, embeddings: Tensor) -> str | None:
    """Check that a model gives the same logits for ids and for their embeddings.

    Some models also need the ids (Gemma-3n and Gemma-4 have embeddings in every layer), but visual tokens have no ids.

    Args:
        model: A Hugging Face causal language model.
        input_ids: Two ids of text, ``[1, 2]``.
        embeddings: Their embeddings, ``[1, 2, E]``.

    Returns:
        Description of the problem; None if the logits agree.
    """
    name = type(model).__name__
    try:
        expected = model(input_ids=input_ids, use_cache=False).logits.float()
        got = model(inputs_embeds=embeddings, use_cache=False).logits.float()
    except UNSUPPORTED as error:
        return f"{name} does not run on embeddings, as visual tokens need ({type(error).__name__}: {error})"
    difference, largest = float((expected - got).abs().max()), float(expected.abs().max())
    if difference <= _LARGEST_DIFFERENCE * largest or not torch.isfinite(expected).all():
        return None
    return (
        f"{name} gives other logits for embeddings than for their ids (difference {difference:.3g}, largest logit "
        f"{largest:.3g}): it also reads the ids, and visual tokens have none. Choose another language model"
    )


def unused_parameters(model: Any, embeddings: Tensor) -> list[str]:
    """Names of trainable parameters that a forward pass does not use.

    They are found in the autograd graph of the logits, without a backward pass. Experts are ignored, because other
    tokens may use other experts.

    Args:
        model: A Hugging Face causal language model, not sharded.
        embeddings: Embedded text, connected to the graph, ``[1, 2, E]``.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    logits = model(inputs_embeds=embeddings, use_cache=False).logits
    used = {id(parameter) for parameter in _leaves(logits)}
    return sorted(name for name, each in trainable.items() if id(each) not in used and "expert" not in name)


def _leaves(result: Tensor) -> Iterator[Tensor]:
    """The leaf tensors, with gradients, that a result was computed from."""
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
    """Set evaluation mode: no dropout, and no gradient checkpointing, which does not allow a key-value cache."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
