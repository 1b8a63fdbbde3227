"""Writes a checkpoint. The tensors are divided among the ranks; each is gathered just before its rank writes it.

A rank holds at most one complete tensor in addition to its training state. Every rank sends its part of every tensor
once, so the network traffic of saving is the size of the checkpoint.
"""

import io
import json
import os
import pickle
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from components.checkpoints import atomic_folder
from components.checkpoints.file_hashes import ContentHash, content_hash
from components.checkpoints.frozen_parts_check import SumOverRanks
from components.checkpoints.parameter_access import ParameterAccess
from components.checkpoints.run_checkpoint import CONFIG, FORMAT, INDEX, STATE, VERSION, WEIGHT, state_name
from components.checkpoints.safetensors_writer import SafetensorsWriter, TensorSpec
from components.checkpoints.weight_fingerprint import WeightFingerprint
from components.random_weights import random_parameters


class Ranks(NamedTuple):
    """This rank, the number of ranks, and how they communicate."""

    rank: int
    world_size: int
    all_agree: Callable[[bool], bool]  # whether the argument is True on all ranks; every rank must call it
    sum_over_ranks: SumOverRanks = lambda values: values


class Content(NamedTuple):
    """What a checkpoint contains besides the weights."""

    state: Mapping[str, Any]  # of the trainer; if it has ``optimizer_states``, the optimizer's tensors are written too
    left_out: Collection[str]  # parameters not to write
    config: str | None  # of the run, as YAML
    fingerprints: Mapping[str, WeightFingerprint] = MappingProxyType({})  # of the parameters that are left out
    tokenizer: Mapping[str, str] | None = None  # hashes of the language model's tokenizer


class _StoredTensor(NamedTuple):
    """A tensor to write."""

    name: str
    parameter: Tensor
    state: str | None
    rank: int  # the rank that writes it


def parameters_to_leave_out(module: nn.Module, access: ParameterAccess, changed: Collection[str]) -> list[str]:
    """Names of parameters that need not be stored, because their values are in the file they were loaded from.

    They do not train, never trained, were not loaded from a checkpoint, and were not initialised at random.

    Args:
        module: The model.
        access: Access to the optimizer's states.
        changed: Names of parameters that differ from the values that the model was built with.
    """
    written = {*changed, *random_parameters(module)}
    return [
        name
        for name, parameter in module.named_parameters()
        if not parameter.requires_grad and name not in written and not access.step_counts(parameter)
    ]


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to a model's state dict, by name."""
    found = {}
    for prefix, child in module.named_modules():
        for name, buffer in child.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in child._non_persistent_buffers_set:
                found[name] = buffer
    return found


def describe_optimizer(module: nn.Module, access: ParameterAccess) -> dict[str, Any]:
    """The part of an optimizer's state that is not tensors.

    Args:
        module: The model.
        access: Access to the optimizer's states.

    Returns:
        ``groups`` (name and learning rate of each group) and ``numbers`` (step counts of each parameter).
    """
    groups = [] if access.optimizer is None else named_groups(access.optimizer)
    rates = [{"name": name, "lr": float(group["lr"])} for name, group in groups]
    numbers = {name: access.step_counts(parameter) for name, parameter in module.named_parameters()}
    return {"groups": rates, "numbers": {name: values for name, values in numbers.items() if values}}


def named_groups(optimizer: Optimizer) -> list[tuple[str, dict[str, Any]]]:
    """An optimizer's groups with their names; a group without a name is named by its index."""
    return [(str(group.get("name", index)), group) for index, group in enumerate(optimizer.param_groups)]


def write_checkpoint(path: Path, module: nn.Module, access: ParameterAccess, content: Content, ranks: Ranks) -> None:
    """Write a checkpoint; every rank must call it.

    Args:
        path: Its folder, which all ranks can access. A folder that is there now is replaced once the new one is
            complete.
        module: The model.
        access: Access to its parameters and the optimizer's states.
        content: What else to write.
        ranks: This rank and the others.

    Raises:
        ValueError: The state has values that could only be read back by executing code.
        RuntimeError: Another rank could not write. A previous checkpoint at ``path`` is unchanged.
    """
    items = _items(module, access, ranks.world_size, content)
    encoded = b""
    failure: Exception | None = None
    if ranks.rank == 0:
        try:
            encoded = _encode(content.state)
            atomic_folder.begin(path)
        except Exception as error:  # reported to the other ranks first, which wait for this one
            failure = error
    _agree(failure, ranks, path)
    failure, digest = _write_tensors(atomic_folder.unfinished_path(path), items, access, ranks)
    _agree(failure, ranks, path)
    digests = _digests_of_all_ranks(digest, ranks)
    if ranks.rank == 0:
        try:
            _write_rest(atomic_folder.unfinished_path(path), items, digests, content, encoded)
            atomic_folder.publish(path)
        except Exception as error:
            failure = error
    _agree(failure, ranks, path)


def _items(module: nn.Module, access: ParameterAccess, num_ranks: int, content: Content) -> list[_StoredTensor]:
    """All tensors in the same order on every rank, assigned to ranks such that all write about equally much."""
    tensors: dict[str, Tensor] = {
        name: parameter for name, parameter in module.named_parameters() if name not in content.left_out
    }
    parameters = set(tensors)
    tensors |= persistent_buffers(module)
    states = {
        name: access.tensor_states(tensor) if "optimizer_states" in content.state and name in parameters else []
        for name, tensor in tensors.items()
    }
    loads = [0] * num_ranks
    writer = {}
    sizes = {name: access.shape(tensor).numel() * (1 + len(states[name])) for name, tensor in tensors.items()}
    for name in sorted(tensors, key=lambda name: (-sizes[name], name)):
        writer[name] = loads.index(min(loads))
        loads[writer[name]] += sizes[name]
    items = []
    for name, tensor in tensors.items():
        items.append(_StoredTensor(WEIGHT + name, tensor, None, writer[name]))
        items += [_StoredTensor(state_name(state, name), tensor, state, writer[name]) for state in states[name]]
    return items


def _file_name(rank: int, num_ranks: int) -> str:
    return f"tensors-{rank:05d}-of-{num_ranks:05d}.safetensors"


def _write_tensors(
    target: Path, items: Iterable[_StoredTensor], access: ParameterAccess, ranks: Ranks
) -> tuple[Exception | None, str | None]:
    """Write this rank's file. Returns the error if one occurred, and the content hash of the file if there is one.

    After an error it continues to gather tensors, because the other ranks wait for its parts.
    """
    digest = None
    own = {item.name for item in items if item.rank == ranks.rank}
    failure: Exception | None = None
    file: SafetensorsWriter | None = None
    try:
        if own:
            specs = {item.name: _spec(item, access) for item in items if item.name in own}
            file = SafetensorsWriter(target / _file_name(ranks.rank, ranks.world_size), specs)
    except Exception as error:
        failure = error
    for item in items:
        gathered = access.gather(item.parameter, item.state, item.rank)
        if item.name not in own or file is None or failure is not None:
            continue
        try:
            assert gathered is not None
            file.add(item.name, gathered)
        except Exception as error:
            failure = error
    try:
        if file is not None:
            digest = file.close()
    except Exception as error:
        failure = failure or error
    return failure, digest


def _digests_of_all_ranks(digest: str | None, ranks: Ranks) -> list[str | None]:
    """Content hash of every rank's file; None for a rank without a file."""
    length = len(bytes.fromhex(ContentHash().hexdigest()))
    gathered = torch.zeros(ranks.world_size, 1 + length, dtype=torch.int64)
    if digest is not None:
        gathered[ranks.rank] = torch.tensor([1, *bytes.fromhex(digest)])
    rows = ranks.sum_over_ranks(gathered).tolist()
    return [bytes(values).hex() if is_there else None for is_there, *values in rows]


def _spec(item: _StoredTensor, access: ParameterAccess) -> TensorSpec:
    return TensorSpec(access.dtype(item.parameter, item.state), access.shape(item.parameter))


def _encode(state: Mapping[str, Any]) -> bytes:
    """Pickle the trainer's state, and check that it can be read without executing code."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    try:
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "a checkpoint may hold plain values and tensors only, because reading other objects could run code. Change "
            f"the state of callbacks, datamodule or hyper-parameters to such values ({str(error).splitlines()[0]})"
        ) from error
    return buffer.getvalue()


def _write_rest(
    target: Path, items: Iterable[_StoredTensor], digests: Sequence[str | None], content: Content, state: bytes
) -> None:
    """Write all files except the tensors, the index last."""
    num_ranks = len(digests)
    files = {STATE: state} | ({} if content.config is None else {CONFIG: content.config.encode()})
    for name, text in files.items():
        _write_file(target / name, text)
    hashes = {_file_name(rank, num_ranks): digest for rank, digest in enumerate(digests) if digest is not None}
    hashes |= {name: content_hash(target / name) for name in files}
    index = {
        "format": FORMAT,
        "version": VERSION,
        "step": content.state["global_step"],
        "left_out": sorted(content.left_out),
        "fingerprints": {name: fingerprint._asdict() for name, fingerprint in sorted(content.fingerprints.items())},
        "tokenizer": content.tokenizer and dict(content.tokenizer),
        "files": {path.name: path.stat().st_size for path in sorted(target.iterdir())},
        "hashes": hashes,
        "tensors": {item.name: _file_name(item.rank, num_ranks) for item in items},
    }
    _write_file(target / INDEX, json.dumps(index, indent=1).encode())


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _agree(failure: Exception | None, ranks: Ranks, path: Path) -> None:
    """Raise on every rank if one of them failed."""
    all_succeeded = ranks.all_agree(failure is None)
    if failure is not None:
        raise failure
    if not all_succeeded:
        raise RuntimeError(f"another rank could not write its share of {path}; its message says why")
