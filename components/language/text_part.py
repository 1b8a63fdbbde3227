"""Takes the language model out of a composite one, such as Gemma-3 4B, LLaVA or Mistral Small 3.

A composite model has a vision tower of its own. Beside this project's encoder it would train unused, cost memory and
get adapters, and most of them do not generate from embeddings.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from components.attention_kernels import model_class_of


def text_config_of(config: Any, path: str) -> Any:
    """The configuration of the language model alone: ``config`` itself, where it is no composite model's.

    Args:
        config: What ``config.json`` describes.
        path: Where it was read, for the message.

    Raises:
        ValueError: transformers knows no causal language model of this kind.
    """
    text = config.get_text_config(decoder=True)
    if model_class_of(text, AutoModelForCausalLM) is None:
        part = "" if text is config else f"the text part {text.model_type!r} of "
        raise ValueError(
            f"no language model in {path!r}: transformers has no causal language model for {part}its model type "
            f"{config.model_type!r}. Give the folder of a language model that stands alone, such as the one that this "
            "model was made from"
        )
    return text


def is_composite(config: Any) -> bool:
    """Whether a configuration's language model is only a part of what transformers would build of it."""
    text = config.get_text_config(decoder=True)
    built = model_class_of(config, AutoModelForCausalLM)
    return text is not config and getattr(built, "config_class", None) is not type(text)


def take_text_part(composite: Any, path: str) -> Any:
    """Make a causal language model of a composite model's decoder and output layer; the other parts are given up.

    No weight is copied.

    Args:
        composite: A whole composite model.
        path: Where it was read, for the message.

    Returns:
        The language model, of the class that transformers has for the text part alone.

    Raises:
        ValueError: The parts of the composite model are not those of that class.
    """
    decoder = composite.get_decoder()
    output_layer = composite.get_output_embeddings()
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(decoder.config)
    own = getattr(model, model.base_model_prefix)
    if type(own) is not type(decoder) or output_layer is None:
        raise ValueError(
            f"{path!r} holds a {type(composite).__name__}, whose text part {type(decoder).__name__} cannot be used as "
            f"a {type(model).__name__}: give the folder of a language model that stands alone"
        )
    setattr(model, model.base_model_prefix, decoder)
    model.set_output_embeddings(output_layer)
    # The composite model's configuration decides, and its text part's may say otherwise (Mistral Small 3, InternVL).
    model.config.tie_word_embeddings = output_layer.weight is decoder.get_input_embeddings().weight
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left:
        raise ValueError(f"{path!r} holds a {type(composite).__name__}, which has no weights for {left}")
    model.generation_config = composite.generation_config
    return model.eval()
