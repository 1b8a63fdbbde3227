"""What the config of a training run says about its data, read without building anything of the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from components.language.chat_template import ChatSettings
from datamodules.conversation_check import ConversationCheck
from datamodules.loading import Loading


class RunConfig(NamedTuple):
    """The data of a run."""

    shards: list[str]  # of all training and evaluation sources
    conversations: ConversationCheck


def read_run_config(paths: Sequence[Path]) -> RunConfig:
    """Read configs as ``train.py`` does: later ones are merged over earlier ones.

    Tokenizer and chat settings that ``data`` leaves out are those of the language model.

    Args:
        paths: YAML files.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is no config, or names no tokenizer.
    """
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
    except (AttributeError, KeyError, OmegaConfBaseException, TypeError, YAMLError) as error:
        raise ValueError(f"{', '.join(map(str, paths))}: no config of a training run ({error})") from error
    if not isinstance(tokenizer, str):
        raise ValueError(
            f"{', '.join(map(str, paths))}: data.tokenizer is {tokenizer!r}, and no language model is named; expected "
            "a folder or hub name"
        )
    shards = [name for source in sources for name in ([source] if isinstance(source, str) else source)]
    check = ConversationCheck(tokenizer, chat, loading.get("max_length", Loading.max_length))
    return RunConfig(list(dict.fromkeys(shards)), check)
