r"""Trains a model of many readers on conversations about several media, in a group of processes.

    torchrun --nproc_per_node 2 -m tests.process_end \
        tests.lightning_modules.strategies.train_more_readers ENCODER LLM FOLDER SET...

``train_on_several_media`` does it with those readers whose graph depends on the batch.
"""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import faulthandler
import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path

import torch

from components.bridges.carrier_memory import CarrierMemory
from components.bridges.cluster_and_detail_memory import ClusterAndDetailMemory
from components.bridges.delta_rule_memory import DeltaRuleMemory
from components.bridges.flash_memory import FlashMemory
from components.bridges.mamba_memory import MambaMemory
from components.bridges.merging_bank import MergingBank
from components.bridges.short_and_long_memory import ShortAndLongMemory
from components.bridges.summary_memory import SummaryMemory
from components.building import ReaderSettings
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.readers.last_frames import LastFrames
from components.readers.novel_frames import NovelFrames
from components.readers.random_frames import RandomFrames
from components.readers.similarity_merge import SimilarityMerge
from lightning_modules.optimization import Optimization
from tests.fixtures_models import PartFolders
from tests.fixtures_streams import make_module_of_streams
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.lightning_modules.strategies.train_on_mixed_batches import HangWatch
from tests.lightning_modules.strategies.train_on_several_media import make_batches
from tests.lightning_modules.strategies.train_with_strategies import make_strategy

NUM_STEPS = 16
SETS = {
    "exact": {
        "last": ReaderSettings(partial(LastFrames, num_frames=2)),
        "random": ReaderSettings(partial(RandomFrames, num_frames=2)),
        "novel": ReaderSettings(partial(NovelFrames, num_frames=3)),
        "merged": ReaderSettings(partial(SimilarityMerge, num_frames=2)),
        "delta": ReaderSettings(partial(DeltaRuleMemory, num_heads=2, num_queries=3)),
        "mamba": ReaderSettings(partial(MambaMemory, width=16, num_layers=2, num_queries=3)),
    },
    "memories": {
        "short_and_long": ReaderSettings(partial(ShortAndLongMemory, frames_a_segment=1, long_length=2)),
        "bank": ReaderSettings(partial(MergingBank, num_memory=2, num_queries=3, num_heads=2)),
        "flash": ReaderSettings(
            partial(FlashMemory, long_length=2, long_grid=1, abstract_length=2, num_keys=1, detail_grid=2, hidden=4)
        ),
        "clusters": ReaderSettings(partial(ClusterAndDetailMemory, num_clusters=2, cluster_grid=1, num_details=1)),
        "carriers": ReaderSettings(partial(CarrierMemory, max_carriers=2)),
    },
    "drawn": {"summary": ReaderSettings(partial(SummaryMemory, num_layers=2, num_heads=2, num_chosen=1))},
}
"""Readers by their names; those that draw at random in training do not train alike in one process and in two."""


def train(strategy: str, name: str, folders: PartFolders, folder: Path, ranks: list[int]) -> list[float]:
    """Train the readers of a set on what these ranks read; returns the losses of the steps."""
    torch.manual_seed(0)
    readers = SETS[name]
    rates = {part: 1e-3 for part in (*readers, "language_model")}
    module = make_module_of_streams(
        folders,
        encoder=partial(HuggingFaceVisionEncoder, folders.encoder, layer=-1, max_frames_per_call=4),
        readers=readers,
        visual_prompt="".join(f"then :<{reader}>" for reader in readers),
        optimization=Optimization(rates),
    )
    logger = RecordingLogger()
    trainer = make_trainer(
        folder,
        NUM_STEPS,
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy=make_strategy(strategy),
        logger=logger,
        use_distributed_sampler=False,
        callbacks=[HangWatch()],
    )
    trainer.fit(module, make_loader(make_batches(folders, ranks, NUM_STEPS)))
    faulthandler.cancel_dump_traceback_later()
    return logger.values("train/loss")


def main(encoder: str, language_model: str, folder: str, *names: str) -> None:
    """Train every set with ZeRO-3; the first rank writes the losses to ``FOLDER/SET.json``."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # thousands of lines would hide the stack traces
    rank = int(os.environ["RANK"])
    for name in names:
        losses = train("zero3", name, PartFolders(encoder, language_model), Path(folder), [rank])
        if rank == 0:
            Path(folder, f"{name}.json").write_text(json.dumps(losses), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
