#!/usr/bin/env bash
# Made the files of this folder with the code of commit 98f5d06: bash make.sh CHECKOUT, in an empty folder.
# expected.json has train/loss of again/metrics.csv by step, and the predictions of answers/predictions.jsonl by key.
set -eu
checkout=$1
export PYTHONPATH=$checkout OMP_NUM_THREADS=1
cp "$(dirname "$0")"/*.yaml .
python - <<'PYTHON'
import torchvision_import  # noqa: F401
import torch
from pathlib import Path
from transformers import Dinov2Config, Dinov2Model
from tests.components.tiny_language import make_model_folder
from tests.fixtures_data import make_clip, make_record, natural_frames, write_shard
from tests.fixtures_models import _write_pixel_settings

torch.manual_seed(0)
sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=14, initializer_range=0.2)).save_pretrained("encoder")
_write_pixel_settings(Path("encoder"), 28)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
sizes |= {"num_key_value_heads": 1, "vocab_size": 80, "max_position_embeddings": 256}
make_model_folder(Path("language_model"), seed=2, **sizes)
questions = [("which colour ?", "red"), ("which shape ?", "circle"), ("how many ?", "one two")]
clips = [make_clip(6, width=28, height=28, frames=natural_frames(6, 28, 28, seed)) for seed in range(3)]
write_shard(Path("train.tar"), [(f"video{i}", make_record([questions[i]]), clips[i], "mp4") for i in range(3)])
PYTHON
python "$checkout/train.py" fit -c config.yaml --run_folder run
python "$checkout/train.py" fit -c config.yaml --run_folder again --ckpt_path run/checkpoints/step-00000002.ckpt
python -m lightning_modules.export run/checkpoints/step-00000002.ckpt export
python "$checkout/evaluate.py" --checkpoint export --data train.tar --out answers
cp -r run/checkpoints/step-00000002.ckpt .
# The same with a pooling that the bridge owned, with the code of commit 50457a8. Its checkpoint and export are in pooled.
python "$checkout/train.py" fit -c config.yaml -c pooled.yaml --run_folder pooled_run
mkdir pooled
cp -r pooled_run/checkpoints/step-00000002.ckpt pooled
python -m lightning_modules.export pooled/step-00000002.ckpt pooled/export
