import tarfile
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from apps.quickstart.tokenizer import build_language_model_folder, conversation_texts
from datamodules.errors import SampleError
from datamodules.shards.shard_writer import ShardWriter

QUESTION = "Which colour was shown?"


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    with ShardWriter(tmp_path / "train", max_samples=1) as writer:
        for number, answer in enumerate(("red", "blue")):
            turns = [{"role": "user", "content": f"<video>\n{QUESTION}"}, {"role": "assistant", "content": answer}]
            record = {"source": "made", "conversations": [{"id": str(number), "turns": turns}]}
            writer.write(f"sample{number}", record, b"not looked at", "mp4")
    return writer.paths


def test_texts_are_all_turns_without_the_video_mark(shards: list[Path]) -> None:
    assert [text.strip() for text in conversation_texts(shards)] == [QUESTION, "red", QUESTION, "blue"]


def test_folder_loads_as_tokenizer_and_untrained_model(shards: list[Path], tmp_path: Path) -> None:
    folder = build_language_model_folder(shards, tmp_path / "lm", num_layers=2, width=32, num_heads=4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 32)
    assert len(model.model.layers) == 2
    assert model.config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.config.pad_token_id == tokenizer.pad_token_id


def test_every_word_of_the_shards_is_a_token_and_others_are_unknown(shards: list[Path], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(build_language_model_folder(shards, tmp_path / "lm"))
    assert tokenizer.tokenize(QUESTION) == ["Which", "colour", "was", "shown", "?"]
    assert tokenizer.tokenize("zebra") == [tokenizer.unk_token]
    assert tokenizer.decode(tokenizer("blue").input_ids) == "blue"


def test_chat_template_adds_five_tokens_to_a_question_and_one_ends_the_answer(
    shards: list[Path], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(build_language_model_folder(shards, tmp_path / "lm"))
    question = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "red"}], tokenize=False)
    assert whole.startswith(prompt)
    assert tokenizer.tokenize(prompt)[:2] == ["<|im_start|>", "user"]
    assert tokenizer.tokenize(prompt)[-3:] == ["<|im_end|>", "<|im_start|>", "assistant"]
    assert len(tokenizer.tokenize(prompt)) == len(tokenizer.tokenize(QUESTION)) + 5
    assert tokenizer.tokenize(whole[len(prompt) :]) == ["red", "<|im_end|>"]


def test_same_shards_give_the_same_folder(shards: list[Path], tmp_path: Path) -> None:
    one, two = (build_language_model_folder(shards, tmp_path / name) for name in ("one", "two"))
    assert {f.name: f.read_bytes() for f in one.iterdir()} == {f.name: f.read_bytes() for f in two.iterdir()}


def test_width_that_the_heads_cannot_share_is_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="width 36 is not a multiple of twice the 4 heads"):
        build_language_model_folder(shards, tmp_path / "lm", width=36, num_heads=4)


def test_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text to train a tokenizer on"):
        build_language_model_folder([], tmp_path / "lm")


def test_wrong_sample_is_named(tmp_path: Path) -> None:
    shard = tmp_path / "broken.tar"
    with tarfile.open(shard, "w") as tar:
        tar.addfile(tarfile.TarInfo("sample0.json"))
    with pytest.raises(SampleError, match=r"broken\.tar, key 'sample0'"):
        list(conversation_texts([shard]))
