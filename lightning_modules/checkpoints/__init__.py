"""Connects checkpoints to Lightning: when to save, and how strategies save and load.

- ``keeping``: the callback that saves and decides which checkpoints to delete.
- ``portable_checkpoints``: the mixin with which a strategy writes and reads this project's format.
- ``zero_access``: access to the parameters of DeepSpeed's ZeRO.

The format itself, and everything that does not need Lightning or DeepSpeed, is in ``components.checkpoints``.
"""
