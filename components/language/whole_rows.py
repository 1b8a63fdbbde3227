"""Arguments for a Hugging Face model that reads complete rows, padded on the right, as training does."""

from typing import Any

from torch import Tensor
from transformers import Cache

from components.language.packing import attends_only, is_flash
from components.language.splice import SplicedInputs


class NoCache(Cache):
    """A cache that is always empty: layers get the keys and values of this call, and nothing is stored.

    With a cache, even an empty one, transformers does not look for several conversations in a row. It looks at position
    ids, which it reads back from the device.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Give keys and values back."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before this call: 0."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of this call's first token: 0."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Number of keys, those of this call, and the position of the first."""
        return query_length, 0


def row_arguments(model: Any, inputs: SplicedInputs) -> dict[str, Any]:
    """Keyword arguments of a Hugging Face model for rows that are padded on the right.

    Padding behind a row changes nothing before it, because no token attends to what follows. So models that only attend
    get no mask: transformers would read the mask back from the device to see whether there is padding, and kernels
    without a mask are faster. FlashAttention gets it to leave the padding out.

    Args:
        model: The model.
        inputs: The rows; masks and positions are on the host.
    """
    arguments: dict[str, Any] = {"inputs_embeds": inputs.embeddings, "use_cache": False}
    if attends_only(model) and not is_flash(model):
        # Gradient checkpointing drops the cache from its layers, with a warning.
        return arguments if model.is_activation_checkpointing else arguments | {"past_key_values": NoCache()}
    device = inputs.embeddings.device
    return arguments | {
        "attention_mask": inputs.mask.long().to(device, non_blocking=True),
        "position_ids": inputs.position_ids.to(device, non_blocking=True),
    }
