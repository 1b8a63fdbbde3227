"""Measures the peak memory of a rank."""

from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak memory of this rank in GiB, by kind.

    On CUDA ``allocated`` and ``reserved`` since the last call, which resets them. Elsewhere, on Linux only,
    ``resident`` of the process since its start.
    """
    if device.type == "cuda":
        peaks = {
            "allocated": torch.cuda.max_memory_allocated(device),
            "reserved": torch.cuda.max_memory_reserved(device),
        }
        torch.cuda.reset_peak_memory_stats(device)
        return {kind: size / 2**30 for kind, size in peaks.items()}
    if not _STATUS.exists():
        return {}
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return {"resident": int(line.split()[1]) / 2**20}
