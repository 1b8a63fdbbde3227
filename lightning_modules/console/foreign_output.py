"""Silences what other packages print and this project has understood, so that what is left means something."""

import logging
import warnings

_WARNINGS = (
    # Lightning's own use of torch.utils._pytree; nothing that a user of this project could change.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Frozen parts are in evaluation mode on purpose: their dropout must not act.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # A run of a few steps, to see that all works, has nothing to log in between.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # What is logged after an epoch has been counted over all ranks already.
    r"It is recommended to use .*sync_dist=True",
    # A new folder is made for each run, and --run_folder is meant to be used again.
    r"Experiment logs directory .* exists and is not empty",
    # Decoding is done in processes of its own, so a data worker for each core would only be in their way.
    r"The '\w+_dataloader' does not have many workers",
)
_LINES = {
    "lightning.pytorch.utilities.rank_zero": (
        "💡 Tip",  # an advertisement
        "TPU available: False",
        "`Trainer.fit` stopped: `max_steps",  # the summary of the run says so
    ),
    # Whether Lightning's own checkpoints may hold code; those of this project never do.
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
    """Drop those warnings and lines from now on; calling it again changes nothing."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name, kept in _FILTERS.items():
        logging.getLogger(name).addFilter(kept)
