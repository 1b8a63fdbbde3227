"""The options of apps that say how answers are chosen."""

from argparse import ArgumentParser, Namespace

from components.interfaces import DecodingSettings
from membridge.answering_model import VideoLanguageModel


def add_answer_arguments(parser: ArgumentParser) -> None:
    """Add ``--max-new-tokens``, ``--temperature`` and ``--seed``; ``decoding_settings`` reads them."""
    parser.add_argument("--max-new-tokens", type=int, help="longest answer (default: as in the model's evaluation)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 chooses the most likely token (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling with a temperature (default: 0)")


def decoding_settings(model: VideoLanguageModel, options: Namespace) -> DecodingSettings:
    """How answers are chosen: as the options say, and as long as in the model's evaluation by default."""
    longest = model.training_facts.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens
    return DecodingSettings(longest, temperature=options.temperature, seed=options.seed)
