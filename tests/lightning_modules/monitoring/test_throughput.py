import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback

from components.flops.step import ModelFlops, work_of
from components.interfaces import AnswerLoss, TextInputs, VisualTokens
from components.language.causal import HuggingFaceCausalLM
from components.losses import EverySegmentLoss
from components.stream_dropout import StreamDropout
from datamodules.batch import Batch
from lightning_modules.monitoring import ThroughputMonitor, clocks
from lightning_modules.monitoring import throughput as throughput_file
from lightning_modules.monitoring.step_times import PHASES, StepTimes
from tests.fixtures_models import PartFolders, make_batch, make_module
from tests.fixtures_streams import make_module_of_streams
from tests.fixtures_training import RecordingLogger, make_loader, make_trainer

PEAK = 1e9


class Clock:
    """A clock that is set by hand, for the monitors alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(clocks.HostClock, "mark", lambda _: self.now)


class SlowLoader:
    """Gives batches, each after a second."""

    def __init__(self, clock: Clock, batches: list[Batch]) -> None:
        self.clock = clock
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            self.clock.now += 1.0
            yield batch


class SlowStep(Callback):
    """Lets phases of a step last: forward 3 s, backward 5 s, optimizer 2 s; and checkpoints 100 s."""

    def __init__(self, clock: Clock, module: LightningModule) -> None:
        self.clock = clock
        module.built.encoder.register_forward_hook(lambda *_: self.pass_time(3.0))

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    def on_after_backward(self, *_: Any) -> None:
        self.pass_time(5.0)

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.pass_time(2.0)


def run(
    folders: PartFolders, folder: Path, monkeypatch: pytest.MonkeyPatch, num_batches: int = 4, **options: Any
) -> RecordingLogger:
    """Train with phases of known length; every batch takes 1 + 3 + 5 (+ 2) s."""
    clock, logger = Clock(monkeypatch), RecordingLogger()
    module = make_module(folders, **options.pop("changes", {}))
    monitor = options.pop("monitor", None) or ThroughputMonitor()
    slow = SlowStep(clock, module)  # before the monitor, whose marks come after
    steps = num_batches // options.get("accumulate_grad_batches", 1)
    settings = {"log_every_n_steps": steps} | options
    trainer = make_trainer(folder, steps, logger=logger, callbacks=[slow, monitor], **settings)
    trainer.fit(module, SlowLoader(clock, [make_batch(folders)] * num_batches))
    return logger


def test_time_is_split_into_phases_that_add_up(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = run(folders, tmp_path, monkeypatch)
    seconds = [logger.values(f"step_seconds/{phase}") for phase in PHASES]
    # The wait for the first batch belongs to the start of the run, so three waits are spread over four steps.
    assert seconds == [pytest.approx([each]) for each in (0.75, 3.0, 5.0, 2.0)]
    assert logger.values("step_seconds/total") == pytest.approx([10.75])
    shares = [logger.values(f"step_share/{phase}")[0] for phase in PHASES]
    assert shares == pytest.approx([0.75 / 10.75, 3 / 10.75, 5 / 10.75, 2 / 10.75])
    assert sum(shares) == pytest.approx(1.0)


def test_seconds_are_those_of_an_optimizer_step(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = run(folders, tmp_path, monkeypatch, 6, accumulate_grad_batches=2)
    seconds = [logger.values(f"step_seconds/{phase}")[0] for phase in PHASES]
    # The wait for the first step's two batches belongs to the start of the run: four waits over three steps.
    assert seconds == pytest.approx([4 / 3, 6.0, 10.0, 2.0])


def test_rates_count_what_the_batches_hold(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = run(folders, tmp_path, monkeypatch)
    batch = make_batch(folders)
    # The mixed batch: 4 samples with 5 conversations, 5 + 1 + 7 frames; 4 of the conversations have a video.
    text_tokens = int(batch.text_mask.sum()) - 4
    positions = text_tokens + 4 * 16
    longest = int((batch.text_mask.sum(dim=1) - 1 + 16).max())
    expected = {"samples": 4, "conversations": 5, "frames": 13, "text_tokens": text_tokens, "positions": positions}
    for name, count in expected.items():
        assert logger.values(f"throughput/{name}_a_second") == pytest.approx([4 * count / 43.0]), name
    assert logger.values("throughput/padding") == pytest.approx([1.0 - positions / (5 * longest)])


def test_packed_conversations_have_less_padding(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packing() -> HuggingFaceCausalLM:
        return HuggingFaceCausalLM(folders.language_model, pack=True)

    [padded] = run(folders, tmp_path, monkeypatch, 1).values("throughput/padding")
    [packed] = run(folders, tmp_path, monkeypatch, 1, changes={"language_model": packing}).values("throughput/padding")
    assert 0.0 <= packed < padded


@pytest.mark.parametrize("schedule", [None, EverySegmentLoss()])
def test_share_of_the_peak_is_work_over_time(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: EverySegmentLoss | None
) -> None:
    changes = {"loss_schedule": schedule}
    logger = run(folders, tmp_path, monkeypatch, monitor=ThroughputMonitor(PEAK), changes=changes)
    model = make_module(folders, **changes).built
    batch = make_batch(folders)
    total = ModelFlops(model).of(work_of(batch, model(batch))).total
    assert logger.values("throughput/mfu") == pytest.approx([4 * total / 43.0 / PEAK], rel=1e-5)
    assert logger.values("throughput/model_teraflops_a_device") == pytest.approx([4 * total / 43.0 / 1e12], rel=1e-5)


def test_streams_that_are_left_out_are_no_work_of_the_language_model(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, logger = Clock(monkeypatch), RecordingLogger()
    module = make_module_of_streams(folders, stream_schedule=StreamDropout({"frames": 1.0}))
    module.configure_model()
    slow = SlowStep(clock, module)
    trainer = make_trainer(tmp_path, 1, logger=logger, callbacks=[slow, ThroughputMonitor(PEAK)])
    batch = make_batch(folders)
    trainer.fit(module, SlowLoader(clock, [batch]))
    [mfu] = logger.values("throughput/mfu")
    [seconds] = logger.values("step_seconds/total")
    flops, output = ModelFlops(module.built), module.built(batch)
    less, all_streams = (
        flops.of(work_of(batch, output, left_out)) for left_out in (frozenset({"frames"}), frozenset())
    )
    assert mfu * seconds * PEAK == pytest.approx(less.total, rel=1e-5)
    assert less.readers == all_streams.readers
    # In 4 conversations 4 tokens and the words before them are missing, a tenth of what is read or more.
    assert less.language_model < 0.9 * all_streams.language_model


def test_nothing_is_made_up_where_the_peak_is_unknown_and_nobody_asks_for_a_cpu_s(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(throughput_file, "rank_zero_info", said.append)
    logger = run(folders, tmp_path, monkeypatch)
    assert not any(name.endswith(("mfu", "a_device")) for _, values in logger.logged for name in values)
    assert said == []


def test_model_that_cannot_be_counted_trains_on_and_is_told_of_once(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Uncountable(HuggingFaceCausalLM):
        def forward(self, visual: VisualTokens, text: TextInputs) -> AnswerLoss:
            assert float(visual.tokens.detach().sum()) < math.inf  # asks for a number
            return super().forward(visual, text)

    changes = {"language_model": lambda: Uncountable(folders.language_model)}
    with pytest.warns(UserWarning, match="operations of this model cannot be counted") as caught:
        logger = run(
            folders, tmp_path, monkeypatch, monitor=ThroughputMonitor(PEAK), changes=changes, log_every_n_steps=1
        )
    assert len([each for each in caught if "cannot be counted" in str(each.message)]) == 1
    assert len(logger.values("throughput/samples_a_second")) == 4
    assert not logger.values("throughput/mfu")


def test_peak_must_be_positive() -> None:
    with pytest.raises(ValueError, match="peak_flops must be positive, got 0"):
        ThroughputMonitor(0)


def test_only_every_nth_step_is_logged(folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = run(folders, tmp_path, monkeypatch, 7, log_every_n_steps=3)
    logged = [step for step, values in logger.logged if any(name.startswith("step_") for name in values)]
    assert logged == [2, 5]
    kinds = {name.split("/")[0] for _, values in logger.logged for name in values}
    assert {"throughput", "step_seconds", "step_share", "memory_gib"} <= kinds


def test_resident_memory_is_logged(folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = run(folders, tmp_path, monkeypatch, 2)
    [mean], [largest] = (logger.values(f"memory_gib/resident_{kind}") for kind in ("mean", "max"))
    assert mean == largest  # of one rank
    assert 0.1 < mean < 64.0


@pytest.mark.parametrize("pause", ["on_validation_start", "on_save_checkpoint"])
def test_pauses_are_no_waiting_for_data(
    folders: PartFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: str
) -> None:
    monitor = ThroughputMonitor()

    class Pause(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                getattr(monitor, pause)(trainer, pl_module, *([{}] if pause == "on_save_checkpoint" else []))
                clock.now += 100.0

    clock, logger, module = Clock(monkeypatch), RecordingLogger(), make_module(folders)
    slow = SlowStep(clock, module)
    trainer = make_trainer(tmp_path, 4, logger=logger, log_every_n_steps=4, callbacks=[slow, monitor, Pause()])
    trainer.fit(module, SlowLoader(clock, [make_batch(folders)] * 4))
    assert logger.values("step_seconds/waiting_for_data") == pytest.approx([2 / 4])  # two of four waits count
    assert logger.values("step_seconds/total") == pytest.approx([42 / 4])


def test_monitor_lets_go_of_the_model(folders: PartFolders, tmp_path: Path) -> None:
    module = make_module(folders)
    trainer = make_trainer(tmp_path, 1, callbacks=[ThroughputMonitor()])
    trainer.fit(module, make_loader([make_batch(folders)]))
    assert not module.built._forward_hooks


class LateClock:
    """A device that runs behind the process: marks pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.passed = 0.0

    def mark(self) -> float:
        self.now += 1.0
        return self.now

    def has_passed(self, mark: float) -> bool:
        return mark <= self.passed

    def seconds(self, start: float, end: float) -> float:
        assert self.passed >= end, "read before it passed"
        return end - start


def test_what_the_device_has_not_finished_is_left_for_the_next_time() -> None:
    clock = LateClock()
    times = StepTimes(clock)
    for _ in range(3):
        times.begin()  # marks 1, 5, 9
        times.end_phase()
        times.end_phase()
        times.end((1, 2, 3))  # marks 4, 8, 12
    clock.passed = 8.5
    first = times.take()
    assert [step.seconds(clock) for step in first] == [[0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    assert times.take() == []
    clock.passed = 12.0
    assert [step.sizes for step in times.take()] == [(1, 2, 3)]


def test_step_without_a_backward_pass_counts_as_forward() -> None:
    clock = LateClock()
    times = StepTimes(clock)
    times.begin()
    times.end((1, 1, 1))
    clock.passed = clock.now
    [step] = times.take()
    assert step.seconds(clock) == [0.0, 1.0, 0.0, 0.0]
