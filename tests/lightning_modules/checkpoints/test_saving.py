import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from components.checkpoints import saving
from components.checkpoints.run_checkpoint import RunCheckpoint
from lightning_modules.checkpoints.keeping import KeepCheckpoints
from lightning_modules.strategies.replicated import SingleDevice
from tests.lightning_modules.checkpoints.small_runs import batches, make_module, make_trainer, train_and_save


def test_checkpoint_holds_what_trains_with_its_optimizer_and_buffers_and_nothing_else(tmp_path: Path) -> None:
    module = make_module()
    train_and_save(tmp_path / "a.ckpt", module)
    stored = RunCheckpoint(tmp_path / "a.ckpt")
    weights = ["model.moving.bias", "model.moving.weight"]
    states = [f"optimizer/{state}/{name}" for state in ("exp_avg", "exp_avg_sq") for name in weights]
    assert sorted(stored) == sorted(["model/model.seen", *[f"model/{name}" for name in weights], *states])
    assert stored.left_out == {"model.fixed.bias", "model.fixed.weight"}
    assert stored.step == 2
    for name in weights:
        assert torch.equal(stored.weight(name), module.get_parameter(name))
    held = sum(stored[name].numel() * stored[name].itemsize for name in stored)
    written = sum(path.stat().st_size for path in stored.path.glob("*.safetensors"))
    assert held < written < held + 2000, "more than names stand beside the tensors"


def test_frozen_parameters_are_written_when_asked_for(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 2)
    assert isinstance(trainer.strategy, SingleDevice)
    trainer.strategy.save_frozen = True
    module = make_module()
    trainer.fit(module, batches())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stored = RunCheckpoint(tmp_path / "a.ckpt")
    assert stored.left_out == frozenset()
    assert torch.equal(stored.weight("model.fixed.weight"), module.model["fixed"].weight)


def test_what_trained_before_it_was_frozen_is_written(tmp_path: Path) -> None:
    first = make_module(frozen=())
    train_and_save(tmp_path / "a.ckpt", first)
    second = make_module(seed=5)
    trainer = make_trainer(tmp_path, 4)
    trainer.fit(second, batches(), ckpt_path=tmp_path / "a.ckpt")
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    assert torch.equal(RunCheckpoint(tmp_path / "b.ckpt").weight("model.fixed.bias"), first.model["fixed"].bias)


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = make_module()
    make_trainer(tmp_path, 8).fit(whole, batches())
    make_trainer(tmp_path, 4, KeepCheckpoints(folder=str(tmp_path))).fit(make_module(), batches())
    resumed = make_module()
    resumed.model["moving"].reset_parameters()
    make_trainer(tmp_path, 8).fit(resumed, batches(4), ckpt_path=tmp_path / "last.ckpt")
    assert resumed.losses == whole.losses[4:]
    assert resumed.model.seen == 8
    assert torch.equal(resumed.model["moving"].weight, whole.model["moving"].weight)


def test_weights_alone_are_saved_and_judged(tmp_path: Path) -> None:
    module = make_module()
    trainer = make_trainer(tmp_path, 2)
    trainer.fit(module, batches())
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert not [name for name in RunCheckpoint(tmp_path / "a.ckpt") if name.startswith("optimizer/")]
    other = make_module(seed=3)
    make_trainer(tmp_path, 4).validate(other, batches(7), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert torch.equal(other.model["moving"].weight, module.model["moving"].weight)


def test_what_was_frozen_may_train_now(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    later = make_module(frozen=())
    began_with = later.model["fixed"].weight.detach().clone()
    seen = {}

    class Look(Callback):
        def on_train_start(self, trainer: object, pl_module: object) -> None:
            seen["fixed"] = later.model["fixed"].weight.detach().clone()
            seen["states"] = len(later.optimizers().state)  # type: ignore[union-attr]

    with caplog.at_level(logging.INFO, "components.checkpoints"):
        make_trainer(tmp_path, 4, Look()).fit(later, batches(), ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(seen["fixed"], began_with)
    assert seen["states"] == 2, "moments of the two tensors that trained before"
    assert not torch.equal(later.model["fixed"].weight, began_with)
    assert "so they start from their initial values: model.fixed (2 tensors)" in caplog.text
    assert "the optimizer starts without a stored state for: model.fixed (2 tensors)" in caplog.text


@pytest.mark.parametrize(
    ("saved", "opened", "message"),
    [
        ({}, {"deeper": True}, r"missing \['model.more.bias', 'model.more.weight'\] \(2 in all\), unknown \[\]"),
        ({"deeper": True}, {}, r"missing \[\] .*unknown \['model.more.bias', 'model.more.weight'\]"),
        ({}, {"width": 5}, r"of another shape \['model.moving.weight \[1, 4\] instead of \[1, 5\]'\]"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_other_parts_are_refused(tmp_path: Path, saved: dict[str, int], opened: dict[str, int], message: str) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module(**saved))
    with pytest.raises(ValueError, match=f"does not fit the configured model, .*{message}"):
        make_trainer(tmp_path, 4).fit(make_module(**opened), batches(), ckpt_path=tmp_path / "a.ckpt")


def test_initial_weights_begin_a_new_run(tmp_path: Path) -> None:
    first = make_module()
    train_and_save(tmp_path / "a.ckpt", first)
    second = make_module(seed=5, frozen=())

    class Begin(Callback):
        def on_fit_start(self, trainer: object, pl_module: object) -> None:
            later.strategy.load_weights(tmp_path / "a.ckpt")

        def on_train_start(self, trainer: object, pl_module: object) -> None:
            assert torch.equal(second.model["moving"].weight, first.model["moving"].weight)

    later = make_trainer(tmp_path, 1, Begin())
    later.fit(second, batches())
    assert later.global_step == 1


def test_value_that_only_code_could_read_back_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Odd(Callback):
        def state_dict(self) -> dict[str, object]:
            return {"path": Path("somewhere")}

    trainer = make_trainer(tmp_path, 1, Odd())
    trainer.fit(make_module(), batches())
    with pytest.raises(ValueError, match="may hold plain values and tensors only"):
        trainer.save_checkpoint(tmp_path / "new" / "a.ckpt")
    assert not (tmp_path / "new").exists()


def test_object_stores_and_their_options_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 1)
    trainer.fit(make_module(), batches())
    with pytest.raises(ValueError, match=r"cannot write a checkpoint to s3://bucket/a.ckpt: it is a folder on a disk"):
        trainer.save_checkpoint("s3://bucket/a.ckpt")
    with pytest.raises(TypeError, match="storage_options"):
        trainer.save_checkpoint(tmp_path / "a.ckpt", storage_options={"speed": 2})


def test_failing_rank_says_why_and_the_others_that_one_failed() -> None:
    broken = OSError("no space left on device")
    with pytest.raises(OSError, match="no space left"):
        saving._agree(broken, saving.Ranks(0, 2, lambda fine: False), Path("a.ckpt"))
    with pytest.raises(RuntimeError, match=r"another rank could not write its share of a\.ckpt"):
        saving._agree(None, saving.Ranks(1, 2, lambda fine: False), Path("a.ckpt"))


def test_every_rank_writes_its_share(tmp_path: Path) -> None:
    module = make_module(frozen=(), deeper=True)
    trainer = train_and_save(tmp_path / "a.ckpt", module)
    access = trainer.strategy._module_and_access()[1]
    items = saving._items(module, access, 2, saving.Content({"optimizer_states": []}, [], None))
    loads = [sum(access.shape(item.parameter).numel() for item in items if item.rank == rank) for rank in (0, 1)]
    assert len(items) == 6 + 4 * 2 + 1, "weights, two moments of what had a gradient, a buffer"
    assert max(loads) <= 1.3 * min(loads)
    by_parameter = {item.name.split("/")[-1]: item.rank for item in items}
    assert all(by_parameter[item.name.split("/")[-1]] == item.rank for item in items), "states with their parameter"


def damage(checkpoint: Path, how: str) -> None:
    [tensors] = checkpoint.glob("*.safetensors")
    index = checkpoint / "index.json"
    facts = json.loads(index.read_text())
    if how == "cut tensors":
        tensors.write_bytes(tensors.read_bytes()[:-10])
    elif how == "no state":
        (checkpoint / "state.pt").unlink()
    elif how == "cut index":
        index.write_text(index.read_text()[:50])
    elif how == "no index":
        index.unlink()
    elif how == "future":
        index.write_text(json.dumps(facts | {"version": 2}))
    elif how == "foreign":
        index.write_text(json.dumps(facts | {"format": "another"}))
    elif how == "outside":
        facts["tensors"] = dict.fromkeys(facts["tensors"], "../other.safetensors")
        index.write_text(json.dumps(facts))
    elif how in ("bytes", "old bytes"):
        tensors.write_bytes(b"\xff" * tensors.stat().st_size)
        if how == "old bytes":  # as in checkpoints of older versions, without hashes
            del facts["hashes"]
            index.write_text(json.dumps(facts))
    elif how == "code":
        torch.save({"global_step": 2, "bad": Path("x")}, checkpoint / "state.pt")
        facts["files"]["state.pt"] = (checkpoint / "state.pt").stat().st_size
        del facts["hashes"]
        index.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut tensors", r"a.ckpt is incomplete: tensors-00000-of-00001.safetensors \(\d+ bytes instead of \d+\)"),
        ("no state", r"a.ckpt is incomplete: state.pt \(None bytes instead of \d+\)"),
        ("cut index", r"index.json is damaged or not of this project"),
        ("no index", r"a.ckpt is no checkpoint of this project: it has no index.json"),
        ("future", r"a.ckpt is a checkpoint of version 2, this code reads version 1"),
        ("foreign", r"a.ckpt is no checkpoint of this project: .* names the format 'another'"),
        ("outside", r"it names the files \['../other.safetensors'"),
        ("bytes", r"a.ckpt was changed or damaged after it was written: tensors-00000-of-00001.safetensors"),
        ("old bytes", r"safetensors is damaged: "),
        ("code", r"state.pt is damaged, or holds more than plain values; it is not opened"),
    ],
)
def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path, how: str, message: str) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    damage(tmp_path / "a.ckpt", how)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, 4).fit(make_module(), batches(), ckpt_path=tmp_path / "a.ckpt")


def test_single_file_of_before_says_what_to_do(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"old.ckpt is a single file; training writes folders now.*Train again"):
        RunCheckpoint(tmp_path / "old.ckpt")
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*nowhere.ckpt \(seen from "):
        RunCheckpoint(tmp_path / "nowhere.ckpt")


def test_copied_checkpoint_opens(tmp_path: Path) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    copied = shutil.copytree(tmp_path / "a.ckpt", tmp_path / "elsewhere" / "b")
    assert dict(RunCheckpoint(copied)).keys() == dict(RunCheckpoint(tmp_path / "a.ckpt")).keys()
