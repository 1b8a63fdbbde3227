"""The demo as a command, used in a real browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from apps.demo.__main__ import main
from components.model import VideoLanguageModel
from membridge.conversation import Conversation
from tests.documentation import ROOT
from tests.fixtures_data import make_clip
from tests.fixtures_models import PartFolders
from tests.fixtures_serving import QUESTION, expected_answer, make_served_model, write_media

pytestmark = pytest.mark.slow

WAIT_MS = 90_000
LIMITS = ["--port", "0", "--max-mb", "1", "--max-seconds", "12"]
# A browser asks its maker's servers by itself; these options leave that out. The camera is a made one.
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
# Prints every name that the program looks up, and then is the command.
PROGRAM = """
import socket, sys
look_up = socket.getaddrinfo
def noted(host, *arguments, **options):
    print(f"looked up <{host}>", flush=True)
    return look_up(host, *arguments, **options)
socket.getaddrinfo = noted
from apps.demo.__main__ import main
from command_errors import run_and_exit
run_and_exit(main)
"""


class RunningDemo(NamedTuple):
    """The command in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    temporary: Path  # the only folder that it may write to

    def printed(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    return make_served_model(folders)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_media(folder)
    (folder / "long.mp4").write_bytes(make_clip(60))
    (folder / "large.mp4").write_bytes(make_clip(8) + bytes(2 << 20))
    (folder / "old.avi").write_bytes(make_clip(8, container="avi", codec="mpeg4"))
    write_sound(folder / "sound.mp4")
    return folder


@pytest.fixture(scope="module")
def demo(model: VideoLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    folder = tmp_path_factory.mktemp("demo")
    model.save_pretrained(folder / "tiny-model")  # type: ignore[attr-defined]
    (folder / "temporary").mkdir()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder / "tiny-model"), *LIMITS],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "temporary")},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"showing tiny-model at (http://\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield RunningDemo(found[1], process, log, folder / "temporary")
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "this test needs Debian's package chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, demo: RunningDemo) -> Iterator[Page]:
    """A tab with the page, which asked nobody but this machine at the end."""
    with browser.new_context(permissions=["camera"]) as context:
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(demo.url)
        page.wait_for_selector("#video input[type=file]", state="attached")
        yield page
        page.close()
    others = [url for url in asked if not url.startswith((demo.url, "data:", f"blob:{demo.url}"))]
    assert len(asked) > 10
    assert others == []
    assert "Traceback" not in demo.printed()


def write_sound(path: Path) -> None:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000, layout="mono")
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#video input[type=file]", path)


def wait_until_read(page: Page) -> None:
    """Wait until the first video of the page is read and captioned."""
    expect(page.locator("#status")).to_have_text(re.compile("is read. Ask about it"), timeout=WAIT_MS)
    expect(page.locator("#captions li:not(.working)").first).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("#captions .working")).to_have_count(0, timeout=WAIT_MS)


def ask(page: Page, question: str) -> None:
    box = page.locator("#question textarea")
    box.fill(question)
    box.press("Enter")


def test_a_video_is_shown_captioned_and_answered(page: Page, model: VideoLanguageModel, media: Path) -> None:
    expected = Conversation(model)
    medium = expected.load(media / "clip0.mp4")
    upload(page, media / "clip0.mp4")
    expect(page.locator("#scenes figure")).to_have_count(len(medium.scenes), timeout=WAIT_MS)
    expect(page.locator("#scenes svg .cut")).to_have_count(len(medium.scenes) - 1)
    expect(page.locator("#scenes svg polyline")).to_have_count(1)
    expect(page.locator("#captions li:not(.working)")).to_have_count(len(medium.scenes), timeout=WAIT_MS)
    for question in (QUESTION, "and then ?"):
        answer = expected.ask(question).text or "(the model gave an empty answer)"
        ask(page, question)
        expect(page.locator("#chat .bot").last).to_have_text(answer, timeout=WAIT_MS)
        expect(page.locator("#scenes .bar.attended")).to_have_count(len(medium.scenes), timeout=WAIT_MS)
    expect(page.locator("#chat .user.message")).to_have_count(2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken.mp4", "broken.mp4: the video cannot be decoded"),
        ("text.mp4", "text.mp4 has a format that is none of a video or picture"),
        ("sound.mp4", "sound.mp4: .*(no video|sound)"),
        ("long.mp4", "long.mp4 is longer than 12 seconds"),
    ],
)
def test_a_file_that_cannot_be_read_gets_a_message(
    page: Page, model: VideoLanguageModel, media: Path, name: str, message: str
) -> None:
    upload(page, media / name)
    expect(page.locator("#status [role=alert]")).to_have_text(re.compile(message), timeout=WAIT_MS)
    expect(page.locator("#scenes figure")).to_have_count(0)
    page.get_by_role("button", name="Begin again").click()
    expect(page.locator("#status [role=alert]")).to_have_count(0)
    page.wait_for_selector("#video input[type=file]", state="attached")
    upload(page, media / "clip1.mp4")
    wait_until_read(page)
    ask(page, QUESTION)
    expect(page.locator("#chat .bot").last).to_have_text(expected_answer(model, [media / "clip1.mp4"]), timeout=WAIT_MS)


def test_a_video_that_the_browser_cannot_play_is_read(page: Page, model: VideoLanguageModel, media: Path) -> None:
    upload(page, media / "old.avi")
    wait_until_read(page)
    ask(page, QUESTION)
    expect(page.locator("#chat .bot").last).to_have_text(expected_answer(model, [media / "old.avi"]), timeout=WAIT_MS)


def test_a_file_that_is_too_large_is_refused(page: Page, demo: RunningDemo, media: Path) -> None:
    upload(page, media / "large.mp4")
    expect(page.locator("[data-testid=toast-body]")).to_contain_text("maximum allowed size", timeout=WAIT_MS)
    assert list(demo.temporary.rglob("large.mp4")) == []


def test_a_question_without_a_video_gets_a_message(page: Page) -> None:
    ask(page, QUESTION)
    expect(page.locator("#status [role=alert]")).to_have_text(re.compile("no video yet"), timeout=WAIT_MS)
    expect(page.locator("#question textarea")).to_have_value(QUESTION)


def test_a_webcam_is_captioned_while_it_plays_and_answered(page: Page) -> None:
    page.get_by_role("tab", name="Webcam").click()
    page.locator("button:visible", has_text="Click to Access Webcam").click()
    page.locator("#webcam button[aria-label='capture photo']:visible").click()
    expect(page.locator("#scenes figure").nth(1)).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("#captions li:not(.working)").nth(1)).to_be_visible(timeout=WAIT_MS)
    ask(page, QUESTION)
    expect(page.locator("#chat .bot").last).not_to_have_text(re.compile("^…?$"), timeout=WAIT_MS)
    expect(page.locator("#status [role=alert]")).to_have_count(0)


def test_a_closed_tab_leaves_no_file(browser: Browser, demo: RunningDemo, media: Path) -> None:
    page = browser.new_page()
    page.goto(demo.url)
    page.wait_for_selector("#video input[type=file]", state="attached")
    upload(page, media / "clip0.mp4")
    expect(page.locator("#scenes figure").first).to_be_visible(timeout=WAIT_MS)
    assert len(list(demo.temporary.rglob("clip0.mp4"))) == 1
    page.close()
    end = time.monotonic() + 60
    while list(demo.temporary.rglob("clip0.mp4")):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_files_of_this_machine_are_not_served(page: Page, demo: RunningDemo) -> None:
    for path in (ROOT / "README.md", demo.log, Path("/etc/passwd")):
        reply = page.request.get(f"{demo.url}gradio_api/file={path}")
        assert reply.status in (403, 404), path


def test_the_command_says_what_is_wrong(media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--max-mb", "0"], ["--max-seconds", "0"], ["--max-captions", "-1"]):
        with pytest.raises(SystemExit):
            main([str(media), *arguments])
        assert "must be above 0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no folder of a model"):
        main([str(media), "--port", "0"])


def test_the_command_looks_nobody_up_and_ends_cleanly(demo: RunningDemo) -> None:
    """Runs last: it ends the program."""
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(60) == 0, demo.printed()
    assert set(re.findall(r"looked up <(.*?)>", demo.printed())) <= {"127.0.0.1", "localhost"}
    assert list(demo.temporary.glob("membridge-demo-*")) == []
