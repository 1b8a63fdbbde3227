from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from components.bridges.mean_pooling import MeanPooling
from components.checkpoints.run_checkpoint import RunCheckpoint
from components.language.causal import HuggingFaceCausalLM
from components.losses import EverySegmentLoss
from datamodules.batch import collate, empty_text_sample
from lightning_modules.optimization import Optimization
from lightning_modules.video_language import VideoLanguageModule
from tests.components.tiny_language import make_model_folder
from tests.fixtures_models import (
    RATES,
    PartFolders,
    make_batch,
    make_bridge,
    make_frames,
    make_mixed_samples,
    make_module,
    make_sample,
)
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer


def fit(folder: Path, module: VideoLanguageModule, batches: list[Any], **trainer: Any) -> RecordingLogger:
    logger = RecordingLogger()
    make_trainer(folder, logger=logger, **trainer).fit(module, make_loader(batches))
    return logger


def train_and_save(folder: Path, module: VideoLanguageModule, batches: list[Any]) -> Path:
    """Train a step and save."""
    trainer = make_trainer(folder, 1)
    trainer.fit(module, make_loader(batches))
    path = folder / "trained.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_same_seed_gives_the_same_losses_twice(folders: PartFolders, tmp_path: Path) -> None:
    losses = []
    for _ in range(2):
        seed_everything(3)
        module = make_module(folders, seed=3)
        batches = [collate([sample]) for sample in make_mixed_samples(folders)]
        losses.append(fit(tmp_path, module, batches).values("train/loss"))
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_training_lowers_the_loss(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders, optimization=Optimization({"bridge": 1e-2, "language_model": 1e-2}))
    losses = fit(tmp_path, module, [make_batch(folders)] * 8, max_steps=8).values("train/loss")
    assert losses[-1] < 0.7 * losses[0]


def test_training_touches_the_trainable_parts_and_not_the_frozen_one(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fit(tmp_path, module, [make_batch(folders)] * 2, max_steps=2)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    # Two steps, for the norm of the carried memory has no gradient before the gate has moved.
    assert {name for name, p in module.named_parameters() if p.requires_grad} == changed
    assert not any("encoder" in name for name in changed)


def test_learning_rates_are_logged_at_their_own_step(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders, optimization=Optimization(RATES, warmup_fraction=0.5))
    logger = fit(tmp_path, module, [make_batch(folders)] * 4, max_steps=4, log_every_n_steps=2)
    rates = {step: values["learning_rate/bridge"] for step, values in logger.logged if "train/loss" in values}
    assert rates == pytest.approx({1: 1e-3, 3: 0.5e-3})  # warm-up: half, full; cosine: full, half


class Answers(Callback):
    """Notes the answers of every validation batch."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.answers.append(outputs)


def test_validation_logs_loss_and_exact_accuracy_by_set_and_category(folders: PartFolders, tmp_path: Path) -> None:
    module, seen, logger = make_module(folders), Answers(), RecordingLogger()
    trainer = make_trainer(tmp_path, logger=logger, callbacks=[seen])
    batch = make_batch(folders)
    trainer.validate(module, [make_loader([batch]), make_loader([batch])], verbose=False)
    [answers, _] = seen.answers
    assert answers == module.built.answer_turns(batch, 3)
    # The model's own answer to the first question becomes the reference: one of six answers is right.
    assert answers[0] not in {turn.answer for question in batch.questions for turn in question.turns}
    right = tuple(
        question._replace(answer=answers[0] if row == 0 else "blue", category="easy" if row == 0 else "hard")
        for row, question in enumerate(batch.questions)
    )
    logger.logged.clear()
    trainer.validate(module, [make_loader([batch]), make_loader([batch._replace(questions=right)])], verbose=False)
    [values] = [values for _, values in logger.logged]
    assert values["val/accuracy/0"] == 0.0
    assert values["val/accuracy/1"] == pytest.approx(1 / 6)
    assert values["val/accuracy_by_category/1/easy"] == 1.0
    assert values["val/accuracy_by_category/1/hard"] == 0.0
    assert values["val/accuracy"] == pytest.approx(1 / 12)
    assert values["val/loss/0"] == pytest.approx(module.built(batch).loss.item(), abs=1e-5)


def test_validation_logs_accuracy_by_source_and_by_turn_only_where_there_are_several(
    folders: PartFolders, tmp_path: Path
) -> None:
    module, logger = make_module(folders), RecordingLogger()
    batch = make_batch(folders)
    answers = module.built.answer_turns(batch, 3)
    later = tuple(turn._replace(answer=answers[2]) for turn in batch.questions[1].later_turns)
    [first, second, *others] = batch.questions
    named = (first._replace(source="films"), second._replace(later_turns=later), *others)
    sets = [make_loader([batch._replace(questions=named)]), make_loader([collate(make_mixed_samples(folders)[1:])])]
    make_trainer(tmp_path, logger=logger).validate(module, sets, verbose=False)
    [values] = [values for _, values in logger.logged]
    assert values["val/accuracy_by_turn/0/2"] == 1.0
    assert values["val/accuracy_by_source/0/made"] > values["val/accuracy_by_source/0/films"] == 0.0
    assert {name for name in values if "by_source" in name or "by_turn" in name} == {
        "val/accuracy_by_source/0/films",
        "val/accuracy_by_source/0/made",
        "val/accuracy_by_turn/0/1",
        "val/accuracy_by_turn/0/2",
    }


def test_a_stand_in_trains_nothing_and_is_not_counted(folders: PartFolders, tmp_path: Path) -> None:
    lost = collate([empty_text_sample()])
    module, logger = make_module(folders), RecordingLogger()
    make_trainer(tmp_path, 2, logger=logger).fit(module, make_loader([lost, make_batch(folders)]))
    assert [values["train/loss"] == 0.0 for _, values in logger.logged if "train/loss" in values] == [True, False]
    missing = [
        name for name, parameter in module.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert missing == [], "or the other ranks would wait for its gradient"
    make_trainer(tmp_path, logger=logger).validate(module, make_loader([lost, make_batch(folders)]), verbose=False)
    assert module.metrics.counter.by()[()].total == 6
    assert torch.isfinite(torch.tensor(logger.logged[-1][1]["val/loss/0"]))


def test_accuracies_start_anew_with_every_validation(folders: PartFolders, tmp_path: Path) -> None:
    module, logger = make_module(folders), RecordingLogger()
    trainer = make_trainer(tmp_path, logger=logger)
    for _ in range(2):
        trainer.validate(module, make_loader([make_batch(folders)]), verbose=False)
        assert module.metrics.counter.by()[()].total == 6


def test_checkpoint_leaves_the_frozen_encoder_out(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders)
    path = train_and_save(tmp_path, module, [make_batch(folders)])
    stored = RunCheckpoint(path).parameters
    assert not [name for name in stored if "encoder" in name]
    assert {name for name, p in module.named_parameters() if p.requires_grad} <= set(stored)


def test_checkpoint_leaves_a_frozen_language_model_with_tied_embeddings_out(
    folders: PartFolders, tmp_path: Path
) -> None:
    tied = make_model_folder(tmp_path / "tied", tie_word_embeddings=True)
    language_model = partial(HuggingFaceCausalLM, str(tied), freeze=True)
    module = make_module(folders, language_model=language_model, optimization=Optimization({"bridge": 1e-3}))
    stored = RunCheckpoint(train_and_save(tmp_path, module, [make_batch(folders)])).parameters
    assert {name.split(".")[1] for name in stored} == {"bridge"}


def test_loaded_checkpoint_gives_the_loss_that_was_saved(folders: PartFolders, tmp_path: Path) -> None:
    trained, batch = make_module(folders), make_batch(folders)
    path = train_and_save(tmp_path, trained, [batch])
    other = make_module(folders, seed=7)
    assert not torch.allclose(other.built(batch).loss, trained.built(batch).loss)
    make_trainer(tmp_path).validate(other, make_loader([batch]), ckpt_path=path, verbose=False)
    torch.testing.assert_close(other.built(batch).loss, trained.built(batch).loss, rtol=0, atol=0)


@pytest.mark.parametrize("bridge", [MeanPooling, partial(make_bridge, num_layers=2)], ids=["pooling", "deeper"])
def test_checkpoint_of_another_bridge_is_refused(folders: PartFolders, tmp_path: Path, bridge: Any) -> None:
    path = train_and_save(tmp_path, make_module(folders), [make_batch(folders)])
    with pytest.raises(ValueError, match=r"checkpoint does not fit .* missing \['model\.bridge\..*Use the config"):
        make_trainer(tmp_path).validate(
            make_module(folders, bridge=bridge), make_loader([make_batch(folders)]), ckpt_path=path, verbose=False
        )


def test_resumed_run_equals_the_uninterrupted_one(folders: PartFolders, tmp_path: Path) -> None:
    batches = [collate([sample]) for sample in make_mixed_samples(folders)]
    whole = fit(tmp_path, make_module(folders), batches, max_steps=4).values("train/loss")
    keep = ModelCheckpoint(tmp_path, "half", every_n_train_steps=2, save_top_k=1)
    stopped = make_trainer(
        tmp_path, 4, limit_train_batches=2, max_epochs=1, enable_checkpointing=True, callbacks=[keep]
    )
    stopped.fit(make_module(folders), make_loader(batches))
    logger = RecordingLogger()
    resumed = make_trainer(tmp_path, 4, logger=logger)
    resumed.fit(make_module(folders, seed=9), make_loader(batches[2:]), ckpt_path=tmp_path / "half.ckpt")
    assert logger.values("train/loss") == whole[2:]


def test_parts_asked_for_too_early_say_so(folders: PartFolders) -> None:
    module = VideoLanguageModule(encoder=None, bridge=make_bridge, language_model=None, segmenter=None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="call configure_model"):
        _ = module.built


def test_predict_step_answers_every_turn(folders: PartFolders, tmp_path: Path) -> None:
    module, batch = make_module(folders), make_batch(folders)
    [answers] = make_trainer(tmp_path).predict(module, make_loader([batch]))  # type: ignore[misc]
    assert answers == module.built.evaluate_turns(batch, 3, [()] * 6)


def test_every_segment_losses_are_logged_by_reading(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders, loss_schedule=EverySegmentLoss())
    sample = make_sample(folders, "video", make_frames(6), [[("which colour ?", "red")]])
    logger = fit(tmp_path, module, [collate([sample])], max_steps=1)
    readings = [logger.values(f"train/loss_after_reading/{index}")[0] for index in range(3)]
    assert logger.values("train/loss") == pytest.approx([sum(readings) / 3], rel=1e-5)
