import errno
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

import command_errors
from command_errors import CRASHED, INTERRUPTED, REFUSED, run_and_exit

ROOT = Path(__file__).resolve().parents[1]


def ending(main: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[object, list[str]]:
    """Exit status and the lines that a command prints on the error stream."""
    with pytest.raises(SystemExit) as exit_:
        run_and_exit(main)
    return exit_.value.code, capsys.readouterr().err.splitlines()


def refuse() -> None:
    raise ValueError("num_frames must be positive, got 0; leave it out for all frames")


def fail_in_a_library() -> None:
    torch.zeros(2) @ torch.zeros(3)


def fail_in_own_code() -> None:
    None.missing  # type: ignore[attr-defined]  # noqa: B018


def break_a_promise() -> None:
    raise AssertionError("never")


def test_an_own_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    line = "error: num_frames must be positive, got 0; leave it out for all frames"
    assert ending(refuse, capsys) == (REFUSED, [line])


def test_the_environment_brings_the_traceback_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBRIDGE_TRACEBACK", "1")
    status, lines = ending(refuse, capsys)
    assert status == REFUSED
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("error: num_frames")


@pytest.mark.parametrize("main", [fail_in_a_library, fail_in_own_code, break_a_promise])
def test_a_fault_keeps_its_traceback_and_ends_in_one_line(
    main: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = ending(main, capsys)
    assert status == CRASHED
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "another folder"), (errno.EACCES, "permissions")],
)
def test_a_refusal_of_the_system_names_the_path_and_what_to_do(number: int, advice: str) -> None:
    message = str(command_errors.explain(OSError(number, "reason", "/data/run")))
    assert message.startswith("/data/run: reason")
    assert advice in message


def test_a_missing_path_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = ending(lambda: Path("/no/such/file").read_text(), capsys)
    assert (status, len(lines)) == (REFUSED, 1)
    assert "/no/such/file" in lines[0]


def test_what_lightning_says_about_its_settings_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_errors.explain(MisconfigurationException("one\n two")) == "one two"


class Refusing(torch.utils.data.Dataset[int]):
    """Refuses its samples, in whatever process."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise ValueError("the shard is gone; copy it again")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_a_data_worker_is_as_short(num_workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    loader = DataLoader(Refusing(), num_workers=num_workers)
    assert ending(lambda: list(loader), capsys) == (REFUSED, ["error: the shard is gone; copy it again"])


def test_an_error_of_a_pool_s_process_is_as_short(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            list(pool.map(Refusing().__getitem__, [0]))

    assert ending(work, capsys) == (REFUSED, ["error: the shard is gone; copy it again"])


@pytest.mark.parametrize("given", [KeyboardInterrupt(), SystemExit(1)])
def test_ctrl_c_is_no_error_and_has_the_status_of_shells(
    given: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def press() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise given  # noqa: B904  as Lightning leaves

    status, lines = ending(press, capsys)
    assert (status, lines[-1]) == (INTERRUPTED, "Stopped by Ctrl-C")


@pytest.mark.parametrize(("result", "status"), [(None, 0), (3, 3), ("report", 0), (True, 0)])
def test_a_number_is_the_status(result: object, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(lambda: result, capsys) == (status, [])


RANK = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from datamodules.media.decoding import Decoding\n"
    "from command_errors import run_and_exit\n"
    "run_and_exit(lambda: Decoding(backend='none'))\n"
)


def test_ranks_that_fail_alike_say_it_once(tmp_path: Path) -> None:
    environment = {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "run", "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(ROOT)],
            env={**environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [REFUSED, REFUSED]
    assert "".join(said).count("error: ") == 1, said


@pytest.mark.parametrize("parse", [lambda: json.loads("[" * 100_000), lambda: yaml.safe_load("[" * 5000)])
def test_a_file_that_is_nested_too_deeply_is_no_bug(
    parse: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = ending(parse, capsys)
    assert status == REFUSED
    assert lines[0].startswith("error: a JSON or YAML file that this command reads is nested too deeply")


def test_endless_recursion_of_the_project_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    def again() -> object:
        return again()

    status, lines = ending(again, capsys)
    assert status == CRASHED
    assert lines[0].startswith("Traceback")


def test_what_the_output_cannot_show_is_escaped() -> None:
    script = "from command_errors import run_and_exit; run_and_exit(lambda: print('caf\\u00e9 \\udcff'))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (0, "caf\\xe9 \\udcff\n"), ended.stderr
