"""Lays several conversations into one row of the language model, where padding would otherwise be computed.

Conversations of a batch differ in length, and each as a row of its own is computed at the length of the longest.
Packed, they share rows: positions start again at 0 with every conversation, and no mask is given. From both together
transformers (5.17 to 5.23, ``masking_utils`` and ``modeling_flash_attention_utils``) knows that a row is packed, and
lets every token attend to the earlier ones of its own conversation alone, within the model's sliding windows where it
has them. ``refuse_mixed_conversations`` checks that it did: some models never hand the positions to the mask.

- SDPA, eager and flex attention: rows as long as the longest conversation, filled first-fit by falling length. They
  compute or read a square mask a row, so longer rows would cost more than they save.
- FlashAttention: one row of all conversations with their boundaries; no position is padding.

Ranks may pack to different numbers of rows: with ZeRO-3 and FSDP only the number of calls has to be equal, and packing
does not change it.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_mask

from components.language.splice import SplicedInputs

_PACKABLE_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


class PackedRows(NamedTuple):
    """Conversations in R rows of P positions, and where each of them lies."""

    embeddings: Tensor  # [R, P, E], zero after a row's last conversation
    position_ids: Tensor  # [R, P] int64, 0 at a conversation's first token and after a row's last one
    row: Tensor  # [C] int64, row of every conversation
    start: Tensor  # [C] int64, column of its first token
    boundaries: Tensor | None  # [C + 1] int32, running sum of the lengths; None unless all lie in one row for flash
    longest: int  # tokens of the longest conversation

    def arguments(self) -> dict[str, Any]:
        """What the Hugging Face model is called with."""
        inputs = {"inputs_embeds": self.embeddings, "position_ids": self.position_ids, "attention_mask": None}
        if self.boundaries is None:
            return inputs
        boundaries = {"cu_seq_lens_q": self.boundaries, "cu_seq_lens_k": self.boundaries}
        return {**inputs, **boundaries, "max_length_q": self.longest, "max_length_k": self.longest}


def pack_rows(inputs: SplicedInputs, *, single_row: bool) -> PackedRows:
    """Lay conversations into rows.

    Their lengths are read on the host, one transfer of C numbers a call.

    Args:
        inputs: The conversations, padded on the right.
        single_row: One row of all of them in order, as FlashAttention reads it, instead of rows as long as the longest.

    Returns:
        The rows; every real token stands in exactly one place.
    """
    lengths: list[int] = inputs.mask.sum(dim=1).tolist()
    longest = max(lengths)
    width = sum(lengths) if single_row else longest
    places = assign_to_rows(lengths, width, largest_first=not single_row)
    row, start = torch.tensor(places, device=inputs.mask.device).unbind(dim=1)  # [C]
    conversation, column = inputs.mask.nonzero(as_tuple=True)
    rows, columns = row[conversation], start[conversation] + column
    shape = (1 + max(number for number, _ in places), width)
    embeddings = inputs.embeddings.new_zeros(*shape, inputs.embeddings.shape[-1])
    embeddings = embeddings.index_put((rows, columns), inputs.embeddings[conversation, column])  # [R, P, E]
    # After the last conversation positions stay 0: a standing position also starts a sequence, so nobody reads there.
    position_ids = torch.zeros(shape, dtype=torch.long, device=rows.device).index_put((rows, columns), column)
    boundaries = None
    if single_row:
        ends = torch.tensor([0, *lengths]).cumsum(dim=0)
        boundaries = ends.to(device=rows.device, dtype=torch.int32)
    return PackedRows(embeddings, position_ids, row, start, boundaries, longest)


def assign_to_rows(lengths: Sequence[int], width: int, *, largest_first: bool = True) -> list[tuple[int, int]]:
    """Put each length into the first row that has room for it.

    Args:
        lengths: At most ``width`` each.
        width: Length of a row.
        largest_first: By falling length, which needs at most 11/9 of the fewest rows possible (and 6/9 of a row);
            otherwise in the order given.

    Returns:
        Row and start in it, for each of ``lengths``.

    Source: first-fit decreasing; its bound is Dósa's (ESCAPE 2007).
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number]) if largest_first else range(len(lengths))
    filled: list[int] = []
    places = [(0, 0)] * len(lengths)
    for number in order:
        row = next((row for row, end in enumerate(filled) if end + lengths[number] <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        places[number] = (row, filled[row])
        filled[row] += lengths[number]
    return places


def is_flash(model: Any) -> bool:
    """Whether a Hugging Face model attends through FlashAttention, which reads boundaries instead of masks."""
    return "flash" in model.config._attn_implementation


def refuse_unpackable(model: Any) -> None:
    """Check that only attention connects a model's tokens.

    Args:
        model: A Hugging Face causal language model.

    Raises:
        ValueError: It has layers that carry a state from token to token: no mask keeps that within a conversation.
    """
    layers = set(getattr(model.config, "layer_types", None) or ())
    if model._is_stateful or layers - _PACKABLE_LAYERS:
        raise ValueError(
            f"pack=True does not work with {type(model).__name__}: layers of it carry a state from one conversation of "
            f"a row into the next (layer types: {', '.join(sorted(layers)) or 'not told'}); set pack to false"
        )


@contextmanager
def refuse_mixed_conversations(model: Any, packed: PackedRows) -> Iterator[None]:
    """Check, while a model runs on packed rows, that its first layer is told to keep conversations apart.

    The mask is read on the host, so once a model is enough.

    Args:
        model: A Hugging Face causal language model.
        packed: What it runs on, at least two conversations in some row.

    Raises:
        ValueError: A token may attend to another conversation of its row, or no layer shows what it attends to. Trained
            like that, a model learns to answer from what it will not be shown.
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
    """Whether this is a layer, and not a model around layers, that is handed the mask as attention reads it."""
    parameters = inspect.signature(module.forward).parameters
    return "attention_mask" in parameters and "hidden_states" in parameters


def _separates(mask: Tensor | BlockMask | None, position_ids: Tensor) -> bool:
    """Whether a mask lets no token attend to another conversation; ``position_ids`` is ``[R, P]``."""
    if mask is None:  # plain causal attention
        return False
    conversation = (position_ids == 0).cumsum(dim=1)  # [R, P], numbered from 1 in every row
    foreign = conversation[:, None, :, None] != conversation[:, None, None, :]  # [R, 1, P, P]
    if isinstance(mask, BlockMask):
        rows, width = position_ids.shape
        mask = create_mask(mask.mask_mod, rows, 1, width, width, device=str(position_ids.device))
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return not bool((allowed & foreign).any())


def _mixing(model: Any) -> str:
    return f"pack=True does not work with {type(model).__name__} and {model.config._attn_implementation} attention"
