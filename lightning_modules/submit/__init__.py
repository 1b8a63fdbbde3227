"""Submits training runs to Slurm: ``python -m lightning_modules.submit``.

- ``__main__``: the command. ``job_settings``: its options.
- ``command_lines``, ``evaluated_shards``: checks before a job is queued.
- ``script``: writes the job script; ``start_record`` and ``staging`` write sections of it.
"""
