"""Strategies: how training is distributed over devices. ``configs/strategy`` has an overlay for each.

- ``replicated``: ``SingleDevice`` and ``Ddp``, the complete model on every device.
- ``zero``: DeepSpeed's ZeRO, stages 1 to 3. ``fsdp2``: PyTorch's FSDP2; it uses ``blocks`` to find the layers to shard.

All write the same checkpoints, see ``lightning_modules.checkpoints``.
"""
