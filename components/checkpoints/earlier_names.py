"""Names that parameters had in checkpoints and exports of earlier versions.

Whoever moves parameters of a model to another module adds a row.
"""

_RENAMED = (  # beginning of the old name, beginning of the new one
    ("bridge.patch_pooling.", "patch_pooling."),  # the recurrent bridge pooled; now the model pools before all readers
)


def current_name(name: str) -> str:
    """Today's name of a stored parameter.

    Args:
        name: Its name in a checkpoint (with ``model.`` in front) or in an export.
    """
    prefix = "model." if name.startswith("model.") else ""
    for old, new in _RENAMED:
        if name.startswith(prefix + old):
            return prefix + new + name.removeprefix(prefix + old)
    return name
