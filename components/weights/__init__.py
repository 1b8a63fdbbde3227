"""Conversion of published VideoLLaMB checkpoints to this project's parts, and back.

- ``videollamb``: the command, ``python -m components.weights.videollamb import|export``. Start here.
- Tensors: ``original_names`` (tables of names), ``conversion`` (renames and checks), ``layer_count`` (expected number
  of layers), ``lora`` (merges adapters), ``trained_parts`` (reads a run's checkpoint for the export).
- Config files: ``encoder_settings`` and ``language_settings`` (the import writes them), ``original_settings`` (copies
  those of the original for the export).
"""
