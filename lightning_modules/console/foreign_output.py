"""Silences messages of other packages that need no action, so that the remaining ones are read."""

import logging
import warnings

_WARNINGS = (
    # Lightning's own use of torch.utils._pytree, which a user cannot change.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Frozen parts are in evaluation mode on purpose: their dropout must not act.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # A run of a few steps has nothing to log before its end.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # Values that are logged after an epoch are computed over all ranks already.
    r"It is recommended to use .*sync_dist=True",
    # Every run has a new folder, and --run_folder is used again on purpose.
    r"Experiment logs directory .* exists and is not empty",
    # The module moves batches, so that counts and text stay on the host whichever datamodule there is.
    r"You have overridden `transfer_batch_to_device` in `LightningModule`",
    # Decoding has its own processes; a data worker for each core would compete with them.
    r"The '\w+_dataloader' does not have many workers",
)
_LINES = {
    "lightning.pytorch.utilities.rank_zero": (
        "💡 Tip",  # an advertisement
        "TPU available: False",
        "`Trainer.fit` stopped: `max_steps",  # the summary of the run says so
    ),
    # Whether Lightning's own checkpoints may contain code; those of this project never do.
    "lightning.pytorch.trainer.connectors.checkpoint_connector": ("`weights_only` was not set",),
}


class _WithoutLines(logging.Filter):
    """Drops log lines by their beginning."""

    def __init__(self, beginnings: tuple[str, ...]) -> None:
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is printed."""
        return not record.getMessage().startswith(self.beginnings)


_FILTERS = {name: _WithoutLines(beginnings) for name, beginnings in _LINES.items()}


def silence_foreign_output() -> None:
    """Drop these warnings and lines from now on; a second call changes nothing."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name, lines in _FILTERS.items():
        logging.getLogger(name).addFilter(lines)
