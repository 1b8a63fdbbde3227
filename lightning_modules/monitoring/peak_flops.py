"""Peak operations a second of GPUs, from their data sheets."""

from typing import NamedTuple

import torch


class PeakFlops(NamedTuple):
    """Dense matrix products, in 10^12 operations a second. None: the GPU has no such unit."""

    half: float  # float16 and bfloat16 with float32 sums
    tf32: float | None
    single: float
    bfloat16: bool = True


# NVIDIA's data sheets, the figures without sparsity. Lightning's own table counts H200 and H100 NVL with sparsity.
# The first entry counts whose words are all in the device's name, so special forms come before general ones.
_PEAKS: dict[str, PeakFlops] = {
    # Blackwell: HGX B200 data sheet, an eighth of the board's figures.
    "B200": PeakFlops(2250.0, 1125.0, 75.0),
    # Hopper: H100, H200 and GH200 data sheets; the NVL and PCIe cards run slower than the SXM modules.
    "H200 NVL": PeakFlops(835.5, 417.5, 60.0),
    "H200": PeakFlops(989.5, 494.5, 67.0),
    "GH200": PeakFlops(989.5, 494.5, 67.0),
    "H100 NVL": PeakFlops(835.5, 417.5, 60.0),
    "H100 PCIe": PeakFlops(756.0, 378.0, 51.0),
    "H100": PeakFlops(989.5, 494.5, 67.0),
    # Ada: L40S and L4 data sheets.
    "L40S": PeakFlops(362.0, 183.0, 91.6),
    "L4": PeakFlops(121.0, 60.0, 30.3),
    # Ampere: A100, A40, A30 and A10 data sheets.
    "A100": PeakFlops(312.0, 156.0, 19.5),
    "A40": PeakFlops(149.7, 74.8, 37.4),
    "A30": PeakFlops(165.0, 82.0, 10.3),
    "A10": PeakFlops(125.0, 62.5, 31.2),
    # Volta and Turing: V100 and T4 data sheets.
    "V100": PeakFlops(125.0, None, 15.7, bfloat16=False),
    "T4": PeakFlops(65.0, None, 8.1, bfloat16=False),
}


def peak_flops(device_name: str, precision: str, *, allows_tf32: bool) -> float | None:
    """Most operations a second that a GPU does in the precision of a run.

    Args:
        device_name: As ``torch.cuda.get_device_name`` gives it, such as ``NVIDIA H100 80GB HBM3``.
        precision: Lightning's ``trainer.precision``, such as ``bf16-mixed``.
        allows_tf32: Whether float32 products may be rounded to TF32.

    Returns:
        Operations a second; None where the GPU, or this precision on it, is not known.
    """
    words = set(device_name.upper().replace("-", " ").split())
    peak = next((peak for name, peak in _PEAKS.items() if set(name.upper().split()) <= words), None)
    if peak is None:
        return None
    if precision.startswith("bf16"):
        rate = peak.half if peak.bfloat16 else None
    elif precision.startswith("16"):
        rate = peak.half
    elif precision.startswith("32"):
        rate = peak.tf32 if allows_tf32 and peak.tf32 is not None else peak.single
    else:
        rate = None
    return None if rate is None else rate * 1e12


def peak_flops_of(device: torch.device, precision: str) -> float | None:
    """``peak_flops`` of a device of this machine; None for CPUs, whose name does not determine it."""
    if device.type != "cuda":
        return None
    allows_tf32 = torch.get_float32_matmul_precision() != "highest"
    return peak_flops(torch.cuda.get_device_name(device), precision, allows_tf32=allows_tf32)
