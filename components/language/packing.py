"""Packs several conversations into one row of the language model, to compute less padding.

Without packing, every conversation of a batch is padded to the longest. With packing they share rows: position ids
restart at 0 for every conversation, and no mask is passed. From this, transformers (5.17 to 5.23, ``masking_utils`` and
``modeling_flash_attention_utils``) detects packed rows, and masks attention between different conversations. Sliding
windows work as before. Some models ignore position ids in their mask; ``refuse_mixed_conversations`` detects them.

- SDPA, eager and flex attention: rows are as long as the longest conversation, filled by first-fit decreasing. These
  kernels use a square mask per row, so longer rows would cost more than they save.
- FlashAttention: a single row with all conversations and their boundaries, without padding.

The number of rows may differ between ranks. ZeRO-3 and FSDP require equal numbers of calls only, which packing does not
change.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_mask

from components.language.splice import SplicedInputs

_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


class PackedRows(NamedTuple):
    """C conversations in R rows of P positions, and the position of each."""

    embeddings: Tensor  # [R, P, E], zero after a row's last conversation
    position_ids: Tensor  # [R, P] int64, 0 at a conversation's first token and after a row's last one
    row: Tensor  # [C] int64, row of every conversation; on the host
    start: Tensor  # [C] int64, column of its first token; on the host
    boundaries: Tensor | None  # [C + 1] int32, cumulative lengths, for FlashAttention's single row; None otherwise
    longest: int  # tokens of the longest conversation

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the Hugging Face model."""
        inputs = {"inputs_embeds": self.embeddings, "position_ids": self.position_ids, "attention_mask": None}
        if self.boundaries is None:
            return inputs
        boundaries = {"cu_seq_lens_q": self.boundaries, "cu_seq_lens_k": self.boundaries}
        return {**inputs, **boundaries, "max_length_q": self.longest, "max_length_k": self.longest}


def pack_rows(inputs: SplicedInputs, *, single_row: bool) -> PackedRows:
    """Pack conversations into rows. Which token goes where is computed on the host.

    Args:
        inputs: The conversations, padded on the right.
        single_row: Put all into one row, in order, for FlashAttention. Otherwise rows are as long as the longest
            conversation.

    Returns:
        The rows. Padding is dropped; every other token occurs exactly once.
    """
    lengths: list[int] = inputs.mask.sum(dim=1).tolist()
    longest = max(lengths)
    width = sum(lengths) if single_row else longest
    assigned = assign_to_rows(lengths, width, largest_first=not single_row)
    row, start = torch.tensor(assigned).unbind(dim=1)  # [C]
    conversation, column = inputs.mask.nonzero(as_tuple=True)
    rows, columns = row[conversation], start[conversation] + column
    shape = (1 + max(number for number, _ in assigned), width)
    # Positions after a row's last conversation are 0: each counts as a sequence of its own, so no token attends to it.
    position_ids = torch.zeros(shape, dtype=torch.long).index_put((rows, columns), column)
    device = inputs.embeddings.device
    moved = torch.stack([rows, columns, conversation, column]).to(device, non_blocking=True)
    rows, columns, conversation, column = moved
    embeddings = inputs.embeddings.new_zeros(*shape, inputs.embeddings.shape[-1])
    embeddings = embeddings.index_put((rows, columns), inputs.embeddings[conversation, column])  # [R, P, E]
    boundaries = None
    if single_row:
        ends = torch.tensor([0, *lengths]).cumsum(dim=0)
        boundaries = ends.to(device, torch.int32, non_blocking=True)
    return PackedRows(embeddings, position_ids.to(device, non_blocking=True), row, start, boundaries, longest)


def assign_to_rows(lengths: Sequence[int], width: int, *, largest_first: bool = True) -> list[tuple[int, int]]:
    """Assign each length to the first row that has room for it.

    Args:
        lengths: At most ``width`` each.
        width: Length of a row.
        largest_first: Assign in order of decreasing length, which needs at most 11/9 of the minimum number of rows plus
            6/9; otherwise in the given order.

    Returns:
        Row and first column for each of ``lengths``.

    Source: first-fit decreasing; its bound is Dósa's (ESCAPE 2007).
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number]) if largest_first else range(len(lengths))
    filled: list[int] = []
    assigned = [(0, 0)] * len(lengths)
    for number in order:
        row = next((row for row, end in enumerate(filled) if end + lengths[number] <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        assigned[number] = (row, filled[row])
        filled[row] += lengths[number]
    return assigned


def is_flash(model: Any) -> bool:
    """Whether a Hugging Face model uses FlashAttention, which takes boundaries instead of a mask."""
    return "flash" in model.config._attn_implementation


def attends_only(model: Any) -> bool:
    """Whether a Hugging Face model has attention layers only, and no recurrent state (Mamba, RWKV)."""
    layers = set(getattr(model.config, "layer_types", None) or ())
    return not model._is_stateful and layers <= _ATTENTION_LAYERS


def refuse_unpackable(model: Any) -> None:
    """Check that a model has no recurrent layers.

    Args:
        model: A Hugging Face causal language model.

    Raises:
        ValueError: It has layers with a recurrent state (Mamba, RWKV). A mask does not stop their state at the end of a
            conversation.
    """
    if not attends_only(model):
        layers = set(getattr(model.config, "layer_types", None) or ())
        raise ValueError(
            f"pack=True does not work with {type(model).__name__}: layers of it carry a state from one conversation of "
            f"a row into the next (layer types: {', '.join(sorted(layers)) or 'not known'}); set pack to false"
        )


@contextmanager
def refuse_mixed_conversations(model: Any, packed: PackedRows) -> Iterator[None]:
    """Check, during a forward pass, that the model's attention mask separates the conversations of a row.

    The mask of the first layer is copied to the CPU; check each model only once.

    Args:
        model: A Hugging Face causal language model.
        packed: Its input, with at least two conversations in some row.

    Raises:
        ValueError: Tokens could attend to another conversation of their row, or no layer takes a mask that can be
            checked. The model would learn to use text that it does not get later.
    """

    def check(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = inspect.signature(layer.forward).bind(*args, **kwargs)
        given.apply_defaults()
        mask = given.arguments["attention_mask"]
        apart = "cu_seq_lens_q" in kwargs if packed.boundaries is not None else _separates(mask, packed.position_ids)
        if not apart:
            raise ValueError(f"{_mixing(model)}: its tokens would attend to other conversations; set pack to false")

    layer = next((module for module in model.modules() if module is not model and _is_layer(module)), None)
    if layer is None:
        raise ValueError(f"{_mixing(model)}: no layer takes an attention_mask that could be checked; set pack to false")
    handle = layer.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is a transformer layer: these take ``hidden_states`` and the final attention mask."""
    parameters = inspect.signature(module.forward).parameters
    return "attention_mask" in parameters and "hidden_states" in parameters


def _separates(mask: Tensor | BlockMask | None, position_ids: Tensor) -> bool:
    """Whether a mask prevents attention to other conversations of a row; ``position_ids`` is ``[R, P]``."""
    if mask is None:  # plain causal attention
        return False
    conversation = (position_ids == 0).cumsum(dim=1)  # [R, P], counted from 1 in every row
    foreign = conversation[:, None, :, None] != conversation[:, None, None, :]  # [R, 1, P, P]
    if isinstance(mask, BlockMask):
        rows, width = position_ids.shape
        mask = create_mask(mask.mask_mod, rows, 1, width, width, device=str(position_ids.device))
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return not bool((allowed & foreign).any())


def _mixing(model: Any) -> str:
    return f"pack=True does not work with {type(model).__name__} and {model.config._attn_implementation} attention"
