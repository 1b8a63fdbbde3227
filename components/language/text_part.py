"""Extracts the language model from a composite model, such as Gemma-3 4B, LLaVA or Mistral Small 3.

A composite model has its own vision tower. With this project's encoder it would be unused, but would need memory and
get adapters. Most composite models also cannot generate from embeddings.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from components.attention_kernels import model_class_of


def text_config_of(config: Any, path: str) -> Any:
    """The configuration of a model's language model; ``config`` itself if the model is not composite.

    Args:
        config: The configuration in ``config.json``.
        path: Its folder, for the message.

    Raises:
        ValueError: transformers has no causal language model of this type.
    """
    text = config.get_text_config(decoder=True)
    if model_class_of(text, AutoModelForCausalLM) is None:
        part = "" if text is config else f"the text part {text.model_type!r} of "
        raise ValueError(
            f"no language model in {path!r}: transformers has no causal language model for {part}its model type "
            f"{config.model_type!r}. Give the folder of a language model alone, such as the one that this model was "
            "made from"
        )
    return text


def is_composite(config: Any) -> bool:
    """Whether the model that transformers builds from a configuration contains more than the language model."""
    text = config.get_text_config(decoder=True)
    built = model_class_of(config, AutoModelForCausalLM)
    return text is not config and getattr(built, "config_class", None) is not type(text)


def take_text_part(composite: Any, path: str) -> Any:
    """Build a causal language model from the decoder and output layer of a composite model, without copying weights.

    Args:
        composite: The composite model.
        path: Its folder, for the message.

    Returns:
        The language model, an instance of transformers' class for this type of language model.

    Raises:
        ValueError: That class does not have the same parts.
    """
    decoder = composite.get_decoder()
    output_layer = composite.get_output_embeddings()
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(decoder.config)
    own = getattr(model, model.base_model_prefix)
    if type(own) is not type(decoder) or output_layer is None:
        raise ValueError(
            f"{path!r} holds a {type(composite).__name__}, whose text part {type(decoder).__name__} cannot be used as "
            f"a {type(model).__name__}: give the folder of a language model alone"
        )
    setattr(model, model.base_model_prefix, decoder)
    model.set_output_embeddings(output_layer)
    # Not from the text configuration, which may contradict the composite one (Mistral Small 3, InternVL).
    model.config.tie_word_embeddings = output_layer.weight is decoder.get_input_embeddings().weight
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left:
        raise ValueError(f"{path!r} holds a {type(composite).__name__}, which has no weights for {left}")
    model.generation_config = composite.generation_config
    return model.eval()
