"""The format of checkpoints and exports, and their reading and writing. Nothing here imports Lightning.

- The format: ``run_checkpoint`` (folders of training runs), ``exported_weights`` (folders of plain weights),
  ``weight_files`` (files of other projects: safetensors and pickles).
- Writing and loading: ``saving``, ``restoring``. Both go through ``parameter_access``, which gathers parameters that a
  strategy shards.
- Checks before loading: ``settings_check`` (config) and ``frozen_parts_check`` (weights and tokenizer that are not
  stored), which uses ``weight_fingerprint`` and ``tokenizer_fingerprint``.
- Files: ``atomic_folder``, ``safetensors_writer``, ``file_hashes``, ``file_modes``.

``lightning_modules.checkpoints`` connects this to Lightning's trainer and strategies, and reads DeepSpeed's parameters.
"""
