"""Lets lmms-eval evaluate models of this project: ``lmms-eval --model membridge --model_args pretrained=FOLDER ...``.

``manifests`` is found by the entry point in ``pyproject.toml``. lmms-eval calls it at every start, also for other
models, so nothing of this package is imported before a model is opened.
"""

from typing import Any


def manifests() -> list[Any]:
    """The models that lmms-eval can open: ``membridge`` for all tasks, ``membridge_chat`` for tasks with messages.

    They are two names and not one: of a name with both forms, lmms-eval takes the one for messages, which it does not
    let answer multiple-choice tasks by likelihood.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    models = f"{__name__}.harness_models"
    return [
        ModelManifest("membridge", simple_class_path=f"{models}.MembridgeModel"),
        ModelManifest("membridge_chat", chat_class_path=f"{models}.MembridgeChatModel"),
    ]
