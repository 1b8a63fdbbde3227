import pytest
import torch

from lightning_modules.monitoring.peak_flops import peak_flops, peak_flops_of


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
    ],
)
def test_gpus_are_known_by_their_names(name: str, teraflops: float) -> None:
    assert peak_flops(name, "bf16-mixed", allows_tf32=False) == pytest.approx(teraflops * 1e12)


def test_precision_decides() -> None:
    of = {
        (precision, tf32): peak_flops("NVIDIA A100-SXM4-40GB", precision, allows_tf32=tf32)
        for precision in ("32-true", "16-mixed", "64-true")
        for tf32 in (False, True)
    }
    assert of["32-true", False] == pytest.approx(19.5e12)
    assert of["32-true", True] == pytest.approx(156e12)
    assert of["16-mixed", True] == pytest.approx(312e12)
    assert of["64-true", True] is None


def test_what_is_not_known_has_no_peak() -> None:
    assert peak_flops("NVIDIA GeForce GTX 1080", "bf16-mixed", allows_tf32=False) is None
    assert peak_flops("Tesla V100-SXM2-16GB", "bf16-mixed", allows_tf32=False) is None  # has no bfloat16
    assert peak_flops("Tesla V100-SXM2-16GB", "32-true", allows_tf32=True) == pytest.approx(15.7e12)
    assert peak_flops_of(torch.device("cpu"), "32-true") is None
