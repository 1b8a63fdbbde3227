import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import train
from components.checkpoints.file_hashes import content_hash
from components.checkpoints.run_checkpoint import RunCheckpoint
from components.model import VideoLanguageModel
from components.old_class_paths import NEW_CLASS_PATHS
from components.streaming import StreamingSession
from lightning_modules.export import export, main
from lightning_modules.trained_model import load_model
from tests.fixtures_data import make_clip, make_record, write_shard
from tests.fixtures_models import IMAGE_SIZE, PartFolders, make_batch, make_frames, make_part_folders
from tests.fixtures_training import write_run_config


class Run(NamedTuple):
    """A finished training run."""

    parts: PartFolders
    checkpoint: Path
    model: VideoLanguageModel  # as it was at the end


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    clip = make_clip(6, width=IMAGE_SIZE, height=IMAGE_SIZE)
    shard = str(write_shard(folder / "train.tar", [(f"v{i}", make_record(), clip, "mp4") for i in range(3)]))
    parts = make_part_folders(folder)
    config = write_run_config(folder, parts, {"train": shard, "validation": shard, "predict": shard})
    settings = yaml.safe_load(config.read_text())
    settings["model"]["optimization"]["averages"] = {"bridge": 0.9}
    fixed = {"class_path": "components.segmenters.fixed_length.FixedLength", "init_args": {"frames": 2}}
    settings["model"]["segmenter"] = fixed
    config.write_text(yaml.safe_dump(settings))
    cli = train.main(["fit", "-c", str(config)])
    return Run(parts, folder / "run/version_0/checkpoints/final.ckpt", cli.model.built.eval())


def weights_of(model: VideoLanguageModel) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items()}


def assert_same(one: VideoLanguageModel, other: VideoLanguageModel, run: Run) -> None:
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    batch = make_batch(run.parts)
    assert torch.equal(one(batch).loss, other(batch).loss)


def test_loaded_model_is_the_trained_one(run: Run) -> None:
    model = load_model(run.checkpoint)
    assert not model.training
    assert_same(model, run.model, run)
    session = StreamingSession(model)
    for number, frame in enumerate(make_frames(3)):
        session.push(frame[None], [number * 1000])
    assert isinstance(session.ask("which colour ?", max_new_tokens=2), str)


def test_export_loads_back_equal_and_holds_no_optimizer(run: Run, tmp_path: Path) -> None:
    lines = export(run.checkpoint, tmp_path / "out")
    assert_same(load_model(tmp_path / "out"), run.model, run)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "config.yaml",
        "encoder",
        "export.json",
        "language_model",
        "model.safetensors",
    ]
    weighing = sum(parameter.nbytes for parameter in run.model.parameters())
    files = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.safetensors"))
    assert weighing < files < 1.3 * weighing
    assert "after step 2" in lines[0]


def in_old_words(config: Path) -> str:
    """A config as an earlier version wrote it."""
    text = config.read_text(encoding="utf-8")
    for old, new in NEW_CLASS_PATHS.items():
        text = text.replace(new, old)
    assert text != config.read_text(encoding="utf-8")
    return text


def with_config(checkpoint: Path, copy: Path, config: str) -> Path:
    """A copy of a checkpoint with another config in it."""
    shutil.copytree(checkpoint, copy)
    path, index_path = copy / "config.yaml", copy / "index.json"
    path.write_text(config, encoding="utf-8")
    index = json.loads(index_path.read_text())
    index["files"][path.name], index["hashes"][path.name] = path.stat().st_size, content_hash(path)
    index_path.write_text(json.dumps(index))
    return copy


def test_exports_checkpoints_and_configs_with_old_class_paths_open(run: Run, tmp_path: Path) -> None:
    export(run.checkpoint, tmp_path / "out")
    (tmp_path / "out" / "config.yaml").write_text(in_old_words(tmp_path / "out" / "config.yaml"), encoding="utf-8")
    assert_same(load_model(tmp_path / "out"), run.model, run)
    config = tmp_path / "config.yaml"
    config.write_text(in_old_words(run.checkpoint / "config.yaml"), encoding="utf-8")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {frame_selection: components.gather.AllFrames}\n", encoding="utf-8")
    assert_same(load_model(run.checkpoint, config=[config, overlay]), run.model, run)
    readout = "--model.bridge.init_args.readout=components.bridges.readouts.CacheAndMemoryReadout"
    folder = f"--trainer.logger.init_args.save_dir={tmp_path}"
    old = with_config(run.checkpoint, tmp_path / "old.ckpt", config.read_text(encoding="utf-8"))
    cli = train.main(["validate", "-c", str(config), readout, folder, "--ckpt_path", str(old)])
    assert_same(cli.model.built.eval(), run.model, run)


def test_export_over_several_files_and_in_another_dtype_loads_back(run: Run, tmp_path: Path) -> None:
    export(run.checkpoint, tmp_path / "out", dtype="bfloat16", largest_file=20_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    model = load_model(tmp_path / "out")
    for name, parameter in run.model.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.to(torch.bfloat16)), name


def test_averages_are_taken_where_there_are(run: Run, tmp_path: Path) -> None:
    model = load_model(run.checkpoint, averaged=True)
    stored = RunCheckpoint(run.checkpoint)
    differing = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, stored.weight(f"model.{name}", averaged=True))
            differing |= set() if torch.equal(parameter, run.model.get_parameter(name)) else {name.split(".")[0]}
    assert differing == {"bridge"}
    export(run.checkpoint, tmp_path / "out", averaged=True)
    assert_same(load_model(tmp_path / "out"), model, run)


def test_language_model_becomes_a_hugging_face_folder(run: Run, tmp_path: Path) -> None:
    export(run.checkpoint, tmp_path / "out", merge_adapters=True)
    folder = tmp_path / "out" / "language_model"
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    ids = torch.arange(5)[None]
    assert torch.equal(plain(ids).logits, run.model.language_model.model(ids).logits)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == run.model.language_model.tokenizer.get_vocab()


def test_command_line_exports_and_leaves_with_a_message(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run.checkpoint), str(tmp_path / "out")])
    assert "copied, for they did not train" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="is there already"):
        main([str(run.checkpoint), str(tmp_path / "out")])
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        main([str(tmp_path / "nowhere.ckpt"), str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def changed(run: Run, folder: Path, change: dict[str, Any]) -> Path:
    """A copy of the checkpoint with another config."""
    copy = shutil.copytree(run.checkpoint, folder / "copy.ckpt")
    settings = yaml.safe_load((copy / "config.yaml").read_text())
    settings["model"] |= change
    (copy / "config.yaml").write_text(yaml.safe_dump(settings))
    index = json.loads((copy / "index.json").read_text())
    index["files"]["config.yaml"] = (copy / "config.yaml").stat().st_size
    index["hashes"]["config.yaml"] = content_hash(copy / "config.yaml")
    (copy / "index.json").write_text(json.dumps(index))
    return copy


RECURRENT = "components.bridges.recurrent.RecurrentMemoryBridge"


@pytest.mark.parametrize(
    "change",
    [
        {"bridge": {"class_path": "os.kill"}},
        {"encoder": "os.abort"},
        {"segmenter": {"class_path": "antigravity.fly"}},
        {"segmenter": "antigravity.fly"},
        {"reducer": "os.kill"},
        {"bridge": {"class_path": RECURRENT, "init_args": {"readout": "os.kill"}}},
        {"readers": {"memory": {"reader": "os.kill"}}},
    ],
    ids=["class", "factory", "segmenter", "segmenter by name", "reducer", "readout", "reader"],
)
def test_config_that_names_other_code_is_not_followed(run: Run, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"names \['(os|antigravity)\.\w+'\], which is not of this project"):
        load_model(changed(run, tmp_path, change))


def test_given_config_counts(run: Run, tmp_path: Path) -> None:
    pooling = {"bridge": {"class_path": "components.bridges.mean_pooling.MeanPooling"}}
    other = changed(run, tmp_path, pooling)
    with pytest.raises(ValueError, match="does not fit the configured model"):
        load_model(other)
    assert_same(load_model(other, config=run.checkpoint / "config.yaml"), run.model, run)
