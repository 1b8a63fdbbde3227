"""docs/cluster.md: a training command runs on tiny parts, jobs are rendered. ``test_docs.py`` reads every command."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

import train
from lightning_modules.submit.__main__ import main as submit
from tests.fixtures_data import make_clip, make_record, write_shard
from tests.fixtures_models import make_quickstart_parts

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
CPU = [
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=2",
    "--trainer.precision=32-true",
    "--trainer.limit_val_batches=0",
]


def commands(program: str) -> list[str]:
    return [line for line in LINES if line.startswith(f"{program} ")]


def arguments(command: str, program: str) -> list[str]:
    """What the shell would make of a command's arguments."""
    expanded = command.replace("$NODE_RANK", "0").replace("$MASTER_ADDR", "localhost")
    return shlex.split(expanded.removeprefix(program), comments=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the quickstart makes, in small."""
    make_quickstart_parts(tmp_path)
    record = make_record(meta={"num_frames": 4})
    clip = make_clip(4, width=84, height=84, fps=2)
    shards = [(f"{number:03d}", record, clip, "mp4") for number in range(64)]
    for name in ("train", "eval-1x", "eval-2x", "eval-4x", "eval-8x"):
        write_shard(tmp_path / f"runs/quickstart/videos/{name}-000000.tar", shards[: 64 if name == "train" else 2])
    for name in ("configs", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_gpu_command_trains(place: Path) -> None:
    cli = train.main([*arguments(commands("python train.py")[0], "python train.py"), *CPU])
    assert cli.trainer.global_step == 2


@pytest.mark.parametrize("command", commands("python -m lightning_modules.submit"))
def test_submissions_render(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = arguments(command, "python -m lightning_modules.submit")
    own, trained = given[: given.index("--")], given[given.index("--") + 1 :]
    assert submit([*own, *([] if "--dry-run" in own else ["--dry-run"]), "--", *trained]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("command", commands("torchrun"))
def test_torchrun_command_starts_a_process_for_each_gpu(command: str) -> None:
    parsed = get_args_parser().parse_args(arguments(command, "torchrun"))
    assert int(parsed.nnodes) * int(parsed.nproc_per_node) == 16


@pytest.mark.parametrize(("statuses", "starts"), [((75, 75, 0), 3), ((75, 1), 2), ((0,), 1)])
def test_loop_starts_again_after_75_only(statuses: tuple[int, ...], starts: int, tmp_path: Path) -> None:
    (loop,) = commands("until")
    (tmp_path / "python").write_text(
        "set -- " + " ".join(map(str, statuses)) + "\ncount=$(cat starts 2> /dev/null | wc -l)\necho >> starts\n"
        'shift "$count"\nexit "$1"\n'
    )
    loop = loop.replace("python train.py", "bash python")
    subprocess.run(["bash", "-c", loop], cwd=tmp_path, check=True, timeout=20)
    assert len((tmp_path / "starts").read_text().splitlines()) == starts


def test_the_page_has_a_command_of_each_kind() -> None:
    counts = {
        program: len(commands(program))
        for program in (
            *("python train.py", "python -m lightning_modules.submit", "torchrun", "until"),
            *("python -m benchmarks.ablation", "sbatch"),
        )
    }
    assert all(counts.values()), counts
    assert sum(counts.values()) == len([line for line in LINES if line.strip()])


def test_options_that_the_page_names_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        submit(["--help"])
    known = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", capsys.readouterr().out))
    table = PAGE[PAGE.index("| option | meaning |") : PAGE.index("With a container:")]
    named = {option for row in table.splitlines() if row for option in re.findall(r"`(--\w[\w-]*)`", row.split("|")[1])}
    assert len(named) > 12
    assert named - known == set()


def test_strategies_that_the_page_names_have_files() -> None:
    overlays = {f"configs/strategy/{name}.yaml" for name in re.findall(r"`(zero\w+|ddp|fsdp2|single_device)`", PAGE)}
    assert len(overlays) >= 7
    assert [name for name in sorted(overlays) if not (ROOT / name).is_file()] == []
