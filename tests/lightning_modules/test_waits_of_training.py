"""Between the steps that are logged, a training run waits for the device once a step: to see whether it is finite."""

from pathlib import Path

from tests.child_program import results_of

PROGRAM = """
import torchvision_import
import os, sys
from pathlib import Path
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback
from lightning_modules.monitoring import GradientMonitor, MemoryTokenMonitor, ThroughputMonitor
from lightning_modules.strategies.replicated import SingleDevice
from tests.config_models import build_module_of, make_inputs_of
from tests.fixtures_models import make_quickstart_parts
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer
from tests.pretend_device import DEVICE, PretendedDevice, move_model

class Accelerator(CPUAccelerator):
    def setup_device(self, device): ...
    @staticmethod
    def get_parallel_devices(devices): return [DEVICE]

class Strategy(SingleDevice):
    def model_to_device(self): move_model(self.model)

class WaitsOfSteps(Callback):
    def on_train_batch_start(self, *_): device.waits.clear()
    def on_train_batch_end(self, *_): results.append(list(device.waits))

results = []
os.chdir(sys.argv[1])
make_quickstart_parts(Path())
module = build_module_of("quickstart.yaml")
batch = make_inputs_of(module.built)
monitors = [ThroughputMonitor(), GradientMonitor(), MemoryTokenMonitor(), WaitsOfSteps()]
with PretendedDevice() as device:
    trainer = make_trainer(
        Path(), max_steps=3, accelerator=Accelerator(), strategy=Strategy(), logger=RecordingLogger(),
        callbacks=monitors, gradient_clip_val=1.0, log_every_n_steps=3,
    )
    trainer.fit(module, make_loader([batch] * 3))
"""


def test_step_of_training_waits_for_the_device_only_to_see_whether_it_is_finite(tmp_path: Path) -> None:
    first, second, logged = results_of(PROGRAM, str(tmp_path))
    assert [line.split(":")[0] for _, line, _ in first] == ["lightning_modules/optimization/non_finite.py"]
    assert second == first
    assert len(logged) > len(first)
