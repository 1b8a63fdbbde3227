"""What is known before the first step is said before it, all at once."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer, SiglipVisionConfig, SiglipVisionModel

import train
from components.interfaces import IGNORED_LABEL, VIDEO_PLACEHOLDER
from components.language.chat_template import ChatSettings
from components.language.text_limits import TextLimitError
from components.stream_dropout import StreamDropout
from datamodules.batch import collate
from datamodules.conversations import build_turns, load_tokenizer
from datamodules.loader import Loading
from datamodules.shards.schema import VIDEO_MARK, Turn
from datamodules.start_sample import StartSample, StartText
from lightning_modules.start_check import StartCheck, check_settings
from tests.components.tiny_language import make_model_folder
from tests.fixtures_data import make_clip, make_record, make_tiny_tokenizer, write_shard
from tests.fixtures_models import (
    IMAGE_SIZE,
    PartFolders,
    make_encoder_folder,
    make_frames,
    make_module,
    make_sample,
    make_unbuilt_module,
)
from tests.fixtures_streams import make_module_of_streams
from tests.fixtures_training import make_loader, make_trainer, write_run_config


def run_settings(folder: Path, folders: PartFolders, question: str = "what colour ?") -> Path:
    """A run's config, whose shards ask this question."""
    clip = make_clip(6, width=IMAGE_SIZE, height=IMAGE_SIZE)
    record = make_record([(question, "red")])
    shard = str(write_shard(folder / "shard.tar", [(f"v{number}", record, clip, "mp4") for number in range(3)]))
    return write_run_config(folder, folders, dict.fromkeys(("train", "validation", "predict"), shard))


def without(path: Path, *names: str) -> Path:
    """The same config with these settings of ``data`` left out."""
    config = yaml.safe_load(path.read_text())
    for name in names:
        del config["data"][name]
    path.write_text(yaml.safe_dump(config))
    return path


def message_of(arguments: list[str]) -> str:
    with pytest.raises(ValueError, match="cannot start") as caught:
        train.main(arguments)
    return str(caught.value)


@pytest.mark.parametrize("stage", ["fit", "validate", "predict"])
def test_another_models_tokenizer_is_refused_with_both_folders(
    tmp_path: Path, folders: PartFolders, stage: str
) -> None:
    other = make_tiny_tokenizer(tmp_path / "other", words=["user", "assistant", "what", "colour"])
    config = run_settings(tmp_path, folders)
    message = message_of([stage, "-c", str(config), "--data.tokenizer", str(other)])
    assert str(other) in message
    assert folders.language_model in message
    assert "different: vocabulary" in message


def test_a_chat_template_of_its_own_is_another_tokenizer(tmp_path: Path, folders: PartFolders) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders.language_model)
    tokenizer.chat_template += "\n"
    tokenizer.save_pretrained(tmp_path / "other")
    config = run_settings(tmp_path, folders)
    message = message_of(["fit", "-c", str(config), "--data.tokenizer", str(tmp_path / "other")])
    assert "different: chat template" in message


def test_everything_that_is_wrong_is_said_in_one_line(tmp_path: Path, folders: PartFolders) -> None:
    other = make_tiny_tokenizer(tmp_path / "other", words=["user", "assistant", "what"])
    narrow = make_model_folder(tmp_path / "narrow", max_position_embeddings=16)
    config = run_settings(tmp_path, folders, "what colour is the circle ? " * 4)
    wrong = ["--data.tokenizer", str(other), "--data.pixels.size", "30"]
    wrong += ["--model.language_model.init_args.path", str(narrow), "--model.language_model.init_args.dtype", "float16"]
    message = message_of(["fit", "-c", str(config), *wrong])
    for part in (
        "4 things are wrong",
        "trainable tensors in float16",
        f"set data.pixels.size to {IMAGE_SIZE}",
        "is not the tokenizer of the language model",
        "key 'v0', conversation",
        f"max_position_embeddings of '{narrow}' is 16",
    ):
        assert part in message
    assert "\n" not in message


def test_tokenizer_and_frame_size_are_those_of_the_parts_unless_stated(tmp_path: Path, folders: PartFolders) -> None:
    config = without(run_settings(tmp_path, folders), "tokenizer", "pixels")
    cli = train.main(["fit", "-c", str(config), "--trainer.max_steps", "1"])
    assert cli.datamodule.tokenizer_path == folders.language_model
    assert cli.datamodule.pixels.size == IMAGE_SIZE
    saved = yaml.safe_load((Path(cli.trainer.log_dir) / "config.yaml").read_text())
    assert (saved["data"]["tokenizer"], saved["data"]["pixels"]["size"]) == (folders.language_model, IMAGE_SIZE)
    stated = train.VideoLanguageCLI(
        train.VideoLanguageModule,
        train.InstructionDataModule,
        args=["-c", str(config), "--data.pixels.size", "42", "--data.tokenizer", "elsewhere"],
        run=False,
    )
    assert (stated.datamodule.pixels.size, stated.datamodule.tokenizer_path) == (42, "elsewhere")


def test_chat_settings_of_the_data_are_the_language_models(tmp_path: Path, folders: PartFolders) -> None:
    config = run_settings(tmp_path, folders)
    dated = ["--model.language_model.init_args.chat.date", "2031-05-06"]
    cli = train.main(["fit", "-c", str(config), *dated, "--trainer.max_steps", "1"])
    assert cli.datamodule.loading.chat == cli.model.built.language_model.chat.settings == ChatSettings("2031-05-06")
    saved = Path(cli.trainer.log_dir) / "config.yaml"
    assert yaml.safe_load(saved.read_text())["data"]["loading"]["chat"]["date"] == "2031-05-06"
    message = message_of(["fit", "-c", str(saved), "--model.language_model.init_args.chat.date", "2030-01-01"])
    assert "data.loading.chat is" in message
    train.main(["validate", "-c", str(saved), "--model.language_model.init_args.chat.date", "2030-01-01",
                "--data.loading.chat", "null"])  # fmt: skip
    message = message_of(["predict", "-c", str(config), "--data.loading.chat.system_turns", "first_question"])
    assert "system_turns='first_question'" in message


def test_a_run_of_before_chat_settings_and_fingerprints_goes_on(tmp_path: Path, folders: PartFolders) -> None:
    config = run_settings(tmp_path, folders)
    cli = train.main(["fit", "-c", str(config), "--trainer.max_steps", "1"])
    checkpoint = Path(cli.trainer.log_dir) / "checkpoints" / "last.ckpt"
    stored = yaml.safe_load((checkpoint / "config.yaml").read_text())
    del stored["data"]["loading"]["chat"], stored["model"]["language_model"]["init_args"]["chat"]
    (checkpoint / "config.yaml").write_text(yaml.safe_dump(stored))
    index = json.loads((checkpoint / "index.json").read_text())
    index["files"]["config.yaml"] = (checkpoint / "config.yaml").stat().st_size
    for key in ("hashes", "fingerprints", "tokenizer"):
        del index[key]
    (checkpoint / "index.json").write_text(json.dumps(index))
    own_copy = tmp_path / "config_of_the_run.yaml"
    own_copy.write_text((checkpoint / "config.yaml").read_text())
    for each in (own_copy, without(config, "tokenizer", "pixels")):
        resumed = ["fit", "-c", str(each), "--ckpt_path", str(checkpoint), "--trainer.max_steps", "2"]
        assert train.main(resumed).trainer.global_step == 2


def test_encoder_and_language_model_are_swapped_by_their_paths_alone(tmp_path: Path, folders: PartFolders) -> None:
    encoder = make_encoder_folder(tmp_path / "siglip")
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    SiglipVisionModel(SiglipVisionConfig(**small, image_size=40, patch_size=14)).save_pretrained(encoder)
    settings = encoder / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace(str(IMAGE_SIZE), "40"))
    language_model = make_model_folder(tmp_path / "qwen", "qwen2", hidden_size=64, head_dim=16)
    config = without(run_settings(tmp_path, folders), "tokenizer", "pixels")
    swapped = ["--model.encoder.init_args.path", str(encoder)]
    swapped += ["--model.language_model.init_args.path", str(language_model)]
    cli = train.main(["fit", "-c", str(config), "--trainer.max_steps", "1", *swapped])
    assert cli.trainer.global_step == 1


def test_pixels_under_cached_features_are_refused_though_no_frame_size_is_known(
    tmp_path: Path, folders: PartFolders
) -> None:
    config = without(run_settings(tmp_path, folders), "pixels")
    encoder = ["--model.encoder", "components.encoders.cached.CachedFeatures"]
    encoder += ["--model.encoder.init_args.dim", "32", "--model.encoder.init_args.num_patches", "4"]
    message = message_of(["fit", "-c", str(config), *encoder])
    assert "read shards that the feature cache command wrote" in message


class OneText:
    """Data of which the start check reads one conversation about so many media."""

    def __init__(self, folders: PartFolders, num_media: int) -> None:
        self.tokenizer_path = folders.language_model
        self.tokenizer = load_tokenizer(folders.language_model)
        self.loading = Loading(batch_size=1)
        turns = [Turn("user", VIDEO_MARK * num_media + "which colour ?"), Turn("assistant", "red")]
        self.encoded = build_turns(turns, self.tokenizer)

    def start_sample(self, stage: str) -> StartSample:
        text = StartText("the sample", *self.encoded[:2], is_answered=stage != "fit")
        return StartSample([text], [], [])


@pytest.mark.parametrize("stage", ["fit", "predict"])
@pytest.mark.parametrize("num_media", [1, 3])
def test_every_medium_of_a_conversation_takes_its_visual_tokens_and_the_words_of_the_prompt(
    tmp_path: Path, folders: PartFolders, num_media: int, stage: str
) -> None:
    """A medium takes 16 tokens of the memory, 4 of the frames and 2 words before each."""
    data = OneText(folders, num_media)
    is_word = data.encoded.input_ids != VIDEO_PLACEHOLDER
    is_prompt = (data.encoded.labels != IGNORED_LABEL).cumsum(0) == 0
    words = int(is_word.sum()) if stage == "fit" else int((is_word & is_prompt).sum()) + 3
    needed = words + num_media * (16 + 4 + 2 * 2)
    for context in (needed, needed - 1):
        narrow = make_model_folder(tmp_path / f"{context}", max_position_embeddings=context)
        parts = folders._replace(language_model=str(narrow))
        module = make_module_of_streams(parts)
        module.configure_model()
        if context == needed:
            check_settings(module.built, stage, OneText(parts, num_media), 3)
            continue
        with pytest.raises(ValueError, match=rf"needs {needed} tokens.* {num_media * 24} or more visual ones"):
            check_settings(module.built, stage, OneText(parts, num_media), 3)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"fames": 0.001}, r"leaves out fames, which the model has not: its visual streams are memory, frames"),
        ({"frames": 0.1, "memory": 0.05}, r"leaves out all visual streams \(memory, frames\) in training batch \d+"),
    ],
)
def test_stream_schedule_that_would_fail_later_is_refused_before_training(
    tmp_path: Path, folders: PartFolders, rates: dict[str, float], message: str
) -> None:
    module = make_module_of_streams(folders, stream_schedule=StreamDropout(rates))
    batch = collate([make_sample(folders, "a", make_frames(2), [[("what ?", "red")]])])
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, max_steps=1).fit(module, make_loader([batch]))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_precisions_that_cast_rotary_angles_are_refused(tmp_path: Path, folders: PartFolders, precision: str) -> None:
    config = run_settings(tmp_path, folders)
    with pytest.raises(ValueError, match=precision.replace("true", "mixed")):
        train.main(["fit", "-c", str(config), "--trainer.precision", precision])


def test_a_long_conversation_that_the_sample_did_not_show_is_named_in_training(
    tmp_path: Path, folders: PartFolders
) -> None:
    narrow = PartFolders(folders.encoder, str(make_model_folder(tmp_path / "narrow", max_position_embeddings=64)))
    short = make_sample(narrow, "short", make_frames(2), [[("what ?", "red")]])
    long = make_sample(narrow, "too-long", make_frames(2), [[("what colour ? " * 30, "red")]])
    trainer = make_trainer(tmp_path, max_steps=2)
    with pytest.raises(TextLimitError, match=r"sample 'too-long'.*max_position_embeddings"):
        trainer.fit(make_module(narrow), make_loader([collate([short]), collate([short, long])]))
    assert trainer.global_step == 1


def test_the_check_leaves_every_generator_of_random_numbers_as_it_was(tmp_path: Path, folders: PartFolders) -> None:
    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]

    class Watch(StartCheck):
        states: tuple[Any, ...] = ()

        def _check(self, trainer: Any, model: Any) -> None:
            before = state()
            super()._check(trainer, model)
            self.states = (before, state())

    watch = Watch()
    module = make_unbuilt_module(folders)
    module.configure_callbacks = lambda: [watch]  # type: ignore[method-assign]
    torch.manual_seed(0)
    make_trainer(tmp_path, max_steps=1).fit(
        module, make_loader([collate([make_sample(folders, "a", make_frames(2), [[("what ?", "red")]])])])
    )
    assert watch.states
    assert watch.states[0] == watch.states[1]
    torch.manual_seed(0)
    alone = make_module(folders)  # built without a trainer, and so without a check
    drawn = torch.rand(2)
    torch.manual_seed(0)
    checked = make_unbuilt_module(folders)
    trainer = make_trainer(tmp_path)
    checked.trainer = trainer
    checked.configure_model()
    assert torch.equal(torch.rand(2), drawn)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), checked.parameters(), strict=True))
