"""Conversion of published checkpoints to this project's parts, and back.

VideoLLaMB:

- ``videollamb``: the command, ``python -m components.weights.videollamb import|export``. Start here.
- Tensors: ``original_names`` (tables of names), ``conversion`` (renames and checks), ``layer_count`` (expected number
  of layers), ``lora`` (merges adapters), ``trained_parts`` (reads a run's checkpoint for the export).
- Config files: ``encoder_settings`` and ``language_settings`` (the import writes them), ``original_settings`` (copies
  those of the original for the export).

LLaVA-OneVision and the Memory-Augmented VLM:

- ``llava_onevision``: the command, ``python -m components.weights.llava_onevision import|export``. Start here.
- Tensors: ``onevision_names`` and ``memory_ov_names`` (names in every layout), ``onevision_plan`` (which stored tensor
  becomes which of ours), ``name_differences`` (what is missing or unknown), ``onevision_import``, ``onevision_export``,
  ``onevision_run`` (reads a run's checkpoint for the export).
- Config files: ``onevision_settings`` (reads them), ``onevision_folders`` (writes them).
"""
