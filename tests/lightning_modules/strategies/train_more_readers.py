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
from typing import Any

import torch

from components.bridges.carrier_memory import CarrierMemory
from components.bridges.cluster_and_detail_memory import ClusterAndDetailMemory
from components.bridges.delta_rule_memory import DeltaRuleMemory
from components.bridges.flash_memory import FlashMemory
from components.bridges.mamba_memory import MambaMemory
from components.bridges.mean_pooling import MeanPooling
from components.bridges.merging_bank import MergingBank
from components.bridges.short_and_long_memory import ShortAndLongMemory
from components.bridges.summary_memory import SummaryMemory
from components.building import ReaderSettings
from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.readers.last_frames import LastFrames
from components.readers.novel_frames import NovelFrames
from components.readers.random_frames import RandomFrames
from components.readers.readouts.context_token import ContextToken
from components.readers.readouts.frame_queries import FrameQueries
from components.readers.readouts.ordered_resampler import OrderedResampler
from components.readers.readouts.pooled_grid import PooledGrid
from components.readers.readouts.question_guided_pooling import QuestionGuidedPooling
from components.readers.readouts.slow_fast import SlowFast
from components.readers.readouts.thumbnail_and_samples import ThumbnailAndSamples
from components.readers.similarity_merge import SimilarityMerge
from components.readers.token_store import TokenStore
from components.reducers.anchor_merge import AnchorMerge
from components.reducers.clip_merge import ClipMerge
from components.reducers.event_clusters import EventClusters
from components.reducers.frame_merge import FrameMerge
from components.reducers.norm_top_merge import NormTopMerge
from components.reducers.novelty_pruner import NoveltyPruner
from components.reducers.pair_token_drop import PairTokenDrop
from components.reducers.saliency_tokens import SaliencyTokens
from components.reducers.static_and_moving import StaticAndMoving
from components.reducers.static_merge import StaticMerge
from components.selection.determinantal_frames import SequentialDeterminantalFrames
from components.selection.dual_encoder_scorer import DualEncoderScorer
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
    "readouts": {
        name: ReaderSettings(partial(TokenStore, readout=readout))
        for name, readout in {
            "pooled": partial(PooledGrid, shape=(2, 1, 2)),
            "context": ContextToken,
            "queries": partial(FrameQueries, num_queries=2, width=16, num_layers=2, num_heads=2),
        }.items()
    },
    "more_readouts": {
        name: ReaderSettings(partial(TokenStore, readout=readout))
        for name, readout in {
            "slow_fast": partial(SlowFast, every=2),
            "collage": partial(ThumbnailAndSamples, frames=2, samples=5),
            "guided": partial(QuestionGuidedPooling, window=(1, 2, 2), temperature=1.0, space=4),
            "ordered": partial(OrderedResampler, num_queries=3, num_heads=2),
        }.items()
    },
    "reducers": {
        name: ReaderSettings(MeanPooling, reducer=reducer)
        for name, reducer in {
            "novelty": partial(NoveltyPruner, rate=0.5),
            "frames": partial(FrameMerge, rounds=1),
            "clips": partial(ClipMerge, tokens_a_frame=2),
            "pairs": partial(PairTokenDrop, drop=0.6),
            "longest": partial(NormTopMerge, rate=0.7),
            "events": partial(EventClusters, num_clusters=(2, 1), event_rate=0.5),
        }.items()
    },
    "salient": {
        name: ReaderSettings(MeanPooling, reducer=reducer)
        for name, reducer in {
            "scenes": StaticAndMoving,
            "salient": partial(SaliencyTokens, rate=0.5, budget="shared"),
            "static": partial(StaticMerge, ratio=0.5),
            "anchors": AnchorMerge,
        }.items()
    },
    "chosen": {"last": ReaderSettings(partial(LastFrames, num_frames=4))},
    "drawn": {"summary": ReaderSettings(partial(SummaryMemory, num_layers=2, num_heads=2, num_chosen=1))},
}
"""Readers by their names; those that draw at random in training do not train alike in one process and in two."""


def parts_of(name: str, folders: PartFolders) -> dict[str, Any]:
    """The encoder of a set, and what chooses frames by the question."""
    if name != "chosen":
        layer = -1 if name == "salient" else None  # some reducers read the saliency of patches
        made = partial(HuggingFaceVisionEncoder, layer=-1, max_frames_per_call=4, saliency_layer=layer)
        return {"encoder": partial(made, folders.encoder)}
    clip = Path(folders.encoder).with_name("clip")
    return {
        "encoder": partial(HuggingFaceVisionEncoder, str(clip), layer=-1, max_frames_per_call=4, joint=True),
        "frame_scorer": partial(DualEncoderScorer, str(clip)),
        "frame_resampling": SequentialDeterminantalFrames(3, piece=2),
    }


def train(strategy: str, name: str, folders: PartFolders, folder: Path, ranks: list[int]) -> list[float]:
    """Train the readers of a set on what these ranks read; returns the losses of the steps."""
    torch.manual_seed(0)
    readers = SETS[name]
    rates = {part: 1e-3 for part in (*readers, "language_model")}
    module = make_module_of_streams(
        folders,
        **parts_of(name, folders),
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
