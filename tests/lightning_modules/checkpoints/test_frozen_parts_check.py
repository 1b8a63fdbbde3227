"""A checkpoint opens only with the frozen weights and the tokenizer that it was trained with."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from components.checkpoints.frozen_parts_check import refuse_other_frozen_weights, take_fingerprints
from components.checkpoints.parameter_access import DirectAccess
from components.checkpoints.run_checkpoint import RunCheckpoint
from components.random_weights import mark_random
from tests.lightning_modules.checkpoints.small_runs import (
    SmallModule,
    batches,
    make_module,
    make_trainer,
    train_and_save,
)

ACCESS = DirectAccess(None, torch.device("cpu"))


def alone(values: torch.Tensor) -> torch.Tensor:
    return values


def with_other_frozen_weights(change: Callable[[torch.Tensor], torch.Tensor]) -> SmallModule:
    module = make_module()
    with torch.no_grad():
        module.model["fixed"].weight.copy_(change(module.model["fixed"].weight))
    return module


def strip_index(checkpoint: Path) -> None:
    """Remove fingerprints and hashes, as in checkpoints of older versions."""
    index = json.loads((checkpoint / "index.json").read_text())
    for key in ("fingerprints", "tokenizer", "hashes"):
        del index[key]
    (checkpoint / "index.json").write_text(json.dumps(index))


def open_by(way: str, module: SmallModule, checkpoint: Path) -> None:
    trainer = make_trainer(checkpoint.parent, 4)
    if way == "fit":
        trainer.fit(module, batches(), ckpt_path=checkpoint)
    elif way == "validate":
        trainer.validate(module, batches(), ckpt_path=checkpoint, verbose=False)
    else:
        module.on_fit_start = lambda: trainer.strategy.load_weights(checkpoint)  # type: ignore[method-assign]
        trainer.fit(module, batches())


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "other values": torch.rand_like,
    "one element": lambda weight: weight + torch.eye(4)[0] * torch.tensor([0.01, 0, 0, 0])[:, None],
    "order": lambda weight: weight.flip(0),
    "scale": lambda weight: weight * 1.001,
    "adapters put in": lambda weight: weight + 1e-3 * torch.outer(torch.arange(4.0), torch.ones(4)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", ["fit", "validate", "initial weights"])
def test_other_frozen_weights_are_refused_and_named(tmp_path: Path, change: str, way: str) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    other = with_other_frozen_weights(CHANGES[change])
    with pytest.raises(ValueError, match=r"frozen weights are not those that .*a\.ckpt.* model\.fixed \(1 tensors\)"):
        open_by(way, other, tmp_path / "a.ckpt")


def test_what_was_frozen_and_trains_now_must_begin_with_the_same_weights(tmp_path: Path) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    later = make_module(frozen=())
    with torch.no_grad():
        later.model["fixed"].bias += 0.1
    with pytest.raises(
        ValueError, match=r"model\.fixed \(1 tensors\) with other values or shapes, such as model\.fixed"
    ):
        make_trainer(tmp_path, 4).fit(later, batches(), ckpt_path=tmp_path / "a.ckpt")


def test_frozen_tensors_that_came_or_went_are_refused(tmp_path: Path) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    more, fewer = make_module(), make_module()
    more.model["fixed"].register_parameter("extra", torch.nn.Parameter(torch.zeros(2), requires_grad=False))
    fewer.model["fixed"].bias = None
    for module, message in ((more, r"model\.fixed \(1 tensors\) more"), (fewer, "that it does not have any more")):
        with pytest.raises(ValueError, match=message):
            refuse_other_frozen_weights(module, ACCESS, RunCheckpoint(tmp_path / "a.ckpt"), alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_same_weights_in_another_dtype_are_known_again(tmp_path: Path, dtype: torch.dtype) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    same = make_module()
    same.model["fixed"].to(dtype)
    refuse_other_frozen_weights(same, ACCESS, RunCheckpoint(tmp_path / "a.ckpt"), alone)
    other = with_other_frozen_weights(lambda weight: weight * 1.02)
    other.model["fixed"].to(dtype)
    with pytest.raises(ValueError, match="frozen weights"):
        refuse_other_frozen_weights(other, ACCESS, RunCheckpoint(tmp_path / "a.ckpt"), alone)


def test_fingerprints_do_not_depend_on_how_many_ranks_take_them() -> None:
    module = make_module(width=7)
    parameters = dict(module.named_parameters())
    expected = take_fingerprints(parameters, ACCESS, alone)
    for num_ranks in (2, 3, 64):
        measured = [measured_by(rank, num_ranks, parameters) for rank in range(num_ranks)]
        total = torch.stack(measured).sum(dim=0)
        found = take_fingerprints(parameters, ACCESS, partial(instead, total))
        for name, fingerprint in expected.items():
            assert found[name].values == fingerprint.values
            assert found[name].total == pytest.approx(fingerprint.total)


def instead(total: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return total


def measured_by(rank: int, num_ranks: int, parameters: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    """What one rank would send to the others."""
    sent: list[torch.Tensor] = []
    access = DirectAccess(None, torch.device("cpu"), rank, num_ranks)
    take_fingerprints(parameters, access, lambda own: sent.append(own) or own)  # type: ignore[func-returns-value]
    return sent[0]


def test_checkpoint_of_before_opens_without_being_compared(tmp_path: Path) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    strip_index(tmp_path / "a.ckpt")
    other = with_other_frozen_weights(torch.rand_like)
    make_trainer(tmp_path, 4).fit(other, batches(2), ckpt_path=tmp_path / "a.ckpt")
    assert len(other.losses) == 2


def test_frozen_weights_that_were_drawn_at_random_are_written(tmp_path: Path) -> None:
    module = make_module()
    mark_random(module.model["fixed"], ["weight"])
    train_and_save(tmp_path / "a.ckpt", module)
    stored = RunCheckpoint(tmp_path / "a.ckpt")
    assert stored.left_out == {"model.fixed.bias"}
    other = with_other_frozen_weights(torch.rand_like)
    make_trainer(tmp_path, 4).validate(other, batches(), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert torch.equal(other.model["fixed"].weight, module.model["fixed"].weight)


@pytest.mark.parametrize("pattern", ["tensors-*.safetensors", "state.pt"])
def test_one_changed_bit_of_any_file_is_found_when_a_checkpoint_is_opened(tmp_path: Path, pattern: str) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    [file] = (tmp_path / "a.ckpt").glob(pattern)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.ckpt was changed or damaged after it was written: {file.name}"):
        RunCheckpoint(tmp_path / "a.ckpt")


def test_ranks_share_the_hashing_of_files(tmp_path: Path) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    (tmp_path / "a.ckpt" / "state.pt").write_bytes(b"x" * (tmp_path / "a.ckpt" / "state.pt").stat().st_size)
    found: list[Any] = []
    for rank in range(2):
        try:
            found.append(RunCheckpoint(tmp_path / "a.ckpt", rank=rank, num_ranks=2).step)
        except ValueError as error:
            found.append(str(error))
    assert found[1] == 2
    assert "state.pt" in found[0]


def test_files_of_another_checkpoint_are_found(tmp_path: Path) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    train_and_save(tmp_path / "b.ckpt", make_module(seed=3))
    [file] = (tmp_path / "a.ckpt").glob("*.safetensors")
    shutil.copy(file, tmp_path / "b.ckpt" / file.name)
    with pytest.raises(ValueError, match="was changed or damaged"):
        RunCheckpoint(tmp_path / "b.ckpt")


def test_parts_begin_with_the_checkpoint_that_is_named_for_them(tmp_path: Path) -> None:
    first = make_module()
    train_and_save(tmp_path / "a.ckpt", first)
    second = with_other_frozen_weights(torch.rand_like)
    fixed, seen = second.model["fixed"].weight.detach().clone(), {}

    def begin() -> None:
        second.trainer.strategy.load_weights({"moving": tmp_path / "a.ckpt"})  # type: ignore[attr-defined]
        seen["moving"] = second.model["moving"].weight.detach().clone()

    second.on_fit_start = begin  # type: ignore[method-assign]
    make_trainer(tmp_path, 1).fit(second, batches())
    assert torch.equal(seen["moving"], first.model["moving"].weight)
    assert torch.equal(second.model["fixed"].weight, fixed)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("projector", r"names the parts \['projector'\]; the model has \['fixed', 'moving'\]"),
        ("fixed", r"has no weights of model\.fixed, because it did not train there"),
    ],
)
def test_parts_that_cannot_be_taken_are_named(tmp_path: Path, part: str, message: str) -> None:
    train_and_save(tmp_path / "a.ckpt", make_module())
    module = make_module()
    module.on_fit_start = lambda: module.trainer.strategy.load_weights({part: tmp_path / "a.ckpt"})  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, 1).fit(module, batches())
