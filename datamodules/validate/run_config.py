"""Reads the data settings from the config of a training run, without building the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from components.language.chat_template import ChatSettings
from datamodules.loader import Loading
from datamodules.media.decoding import Decoding
from datamodules.media.frame_sampling import FrameSampling
from datamodules.validate.conversation_check import ConversationCheck


class RunConfig(NamedTuple):
    """Data settings of a run."""

    shards: list[str]  # of all training and evaluation sources
    conversations: ConversationCheck
    sampling: FrameSampling
    decoding: Decoding


def read_run_config(paths: Sequence[Path]) -> RunConfig:
    """Read configs as ``train.py`` does: later ones are merged over earlier ones.

    Tokenizer and chat settings that ``data`` leaves out are those of the language model.
    It reads ``data`` and two values of the language model only, so files are merged key by key. The parser of the
    command line belongs to ``lightning_modules``, which this package may not import.

    Args:
        paths: YAML files.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is no config, or neither ``data`` nor the language model names a tokenizer.
    """
    where = ", ".join(map(str, paths))
    try:
        merged = OmegaConf.merge(*(OmegaConf.load(path) for path in paths))
        data: Any = OmegaConf.to_container(OmegaConf.select(merged, "data"), resolve=True)
        model: Any = OmegaConf.to_container(
            OmegaConf.select(merged, "model.language_model.init_args", default=OmegaConf.create()), resolve=True
        )
        tokenizer = data.get("tokenizer") or model.get("path")
        loading: Any = data.get("loading") or {}
        sources = [source["shards"] for source in data.get("train") or []]
        sources += [shards for name in ("validation", "test", "predict") for shards in (data.get(name) or {}).values()]
        chat = ChatSettings(**(loading.get("chat") or model.get("chat") or {}))
        sampling = FrameSampling(**(data.get("sampling") or {}))
        decoding = Decoding(**(loading.get("decoding") or {}))
    except (AttributeError, KeyError, OmegaConfBaseException, TypeError, ValueError, YAMLError) as error:
        raise ValueError(f"{where}: no config of a training run ({error})") from error
    if not isinstance(tokenizer, str):
        raise ValueError(
            f"{where}: data.tokenizer is {tokenizer!r} and model.language_model has no path; name one here, "
            "or give the config of the model too"
        )
    shards = [name for source in sources for name in ([source] if isinstance(source, str) else source)]
    check = ConversationCheck(tokenizer, chat, loading.get("max_length", Loading.max_length))
    return RunConfig(list(dict.fromkeys(shards)), check, sampling, decoding)
