"""``python -m apps.look`` writes one page that loads nothing, shows every sample, and says what is wrong with it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from apps import look
from datamodules.validate.__main__ import main as validate
from tests.apps.html_page import Page
from tests.datamodules.several_media import record_of, write_several
from tests.fixtures_data import make_clip, make_image, make_record, write_members, write_shard
from tests.fixtures_models import NUM_PATCHES, VISION_WIDTH, PartFolders, make_part_folders

HOSTILE = '</p></article><script>document.title = "x"</script><img src="http://host/x" onerror="alert(1)"> & "quoted"'
CONFIG = """
model:
  encoder:
    class_path: components.encoders.hugging_face.HuggingFaceVisionEncoder
    init_args: {{path: {encoder}, layer: -1}}
  bridge: {{class_path: components.bridges.mean_pooling.MeanPooling}}
  language_model:
    class_path: components.language.causal.HuggingFaceCausalLM
    init_args: {{path: {language_model}}}
  segmenter: {{class_path: components.segmenters.fixed_length.FixedLength, init_args: {{frames: 2}}}}
data:
  sampling: {{num_frames: null, fps: 4, max_frames: 64}}
  loading: {{num_workers: 0, max_length: 30}}
"""


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    record = json.dumps(make_record()).encode()
    members = [
        ("good.json", record),
        ("good.mp4", make_clip(12)),
        ("cut_off.json", record),
        ("cut_off.mp4", make_clip(12)[:900]),
        ("no_text.json", b'{"source": "made", "conver<i>'),
        ("no_text.mp4", make_clip(3)),
        ("alone.mp4", make_clip(3)),
        ("unmarked.json", json.dumps(make_record(media=False)).encode()),
        ("unmarked.png", make_image()),
    ]
    (tmp_path / "data").mkdir()
    return write_members(tmp_path / "data" / "made-000000.tar", members)


@pytest.fixture
def folders(tmp_path: Path) -> PartFolders:
    return make_part_folders(tmp_path)


@pytest.fixture
def config(tmp_path: Path, folders: PartFolders) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(**folders._asdict()), encoding="utf-8")
    return path


def page_of(*arguments: str | Path, status: int = 0) -> Page:
    out = Path(str(arguments[0])).parent / "made" / "page.html"
    assert look.main([*map(str, arguments), "--out", str(out)]) == status
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    return Page(out)


def test_a_page_shows_what_the_validator_finds(shard: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    validate([str(shard), "--workers", "0", "--report", str(report)])
    found = {sample["key"]: sample["kind"] for sample in json.loads(report.read_text())["wrong_samples"]}
    assert len(found) == 4
    page = page_of(shard)
    listed = dict(re.findall(r'<li><a href="#sample-\d+">(\w+)</a> <b>([\w ]+)</b>', page.source))
    assert listed == found
    assert len(page.of_class("wrong")) == 4
    assert len(page.of_class("right")) == 1


def test_a_page_loads_nothing_and_runs_nothing_whatever_a_shard_says(tmp_path: Path) -> None:
    record = make_record([(HOSTILE, HOSTILE)], source=HOSTILE, category=HOSTILE, meta={HOSTILE: HOSTILE})
    record["conversations"][0] |= {"options": [HOSTILE, "red"], "id": HOSTILE}
    page = page_of(write_shard(tmp_path / "made-000000.tar", [("hostile", record, make_clip(3), "mp4")]))
    assert HOSTILE in page.text
    assert {each.tag for each in page.elements} & {"script", "iframe", "object", "link", "form"} == set()
    for element in page.elements:
        assert not any(name.startswith("on") for name in element.attributes)
        assert element.attributes.get("src", "data:image/jpeg").startswith("data:image/jpeg")
        assert element.attributes.get("href", "#").startswith("#")
    policy = next(each for each in page.elements if each.attributes.get("http-equiv"))
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:;")
    assert sum(each.tag == "article" for each in page.elements) == 1


def test_frames_keep_their_shape_and_have_their_times(shard: Path) -> None:
    page = page_of(shard, "--keys", "good", "--frames", "4")
    assert [round(picture.width / picture.height, 2) for picture in page.pictures] == [round(64 / 48, 2)] * 4
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page.source) == ["0:00.2", "0:01.0", "0:01.8", "0:02.5"]


def test_with_a_config_frames_scenes_and_tokens_are_those_of_the_run(shard: Path, config: Path) -> None:
    page = page_of(shard, "--config", config, "--keys", "good", "--device", "cpu")
    assert len(page.pictures) == 12  # 3 s at 4 frames a second
    assert {picture.size for picture in page.pictures} == {(28, 28)}
    assert "12 frames, 6 scenes" in page.text
    assert "scene 2: 0:00.5 to 0:00.8, 2 frames" in page.text
    assert re.search(r"\d+ text tokens", page.text)
    assert "<polyline" in page.source


def test_every_scene_is_seen_where_not_all_frames_are(shard: Path, config: Path) -> None:
    page = page_of(shard, "--config", config, "--keys", "good", "--device", "cpu", "--frames", "8")
    assert "12 frames, 8 of them shown, 6 scenes" in page.text
    assert len(page.of_class("cut")) == 6
    assert len(page.pictures) == 8


def test_without_the_encoder_no_scenes_are_shown(shard: Path, config: Path) -> None:
    page = page_of(shard, "--config", config, "--keys", "good", "--no-encoder")
    assert len(page.pictures) == 12
    assert page.of_class("cut") == []
    assert "<polyline" not in page.source


def test_a_conversation_that_is_too_long_for_the_run_is_shown_as_wrong(tmp_path: Path, config: Path) -> None:
    record = make_record([("which colour ?", "red"), ("what ?", "red " * 40)], media=False)
    shard = write_shard(tmp_path / "made-000000.tar", [("long", record, None, None)])
    page = page_of(shard, "--config", config, "--no-encoder")
    assert re.search(r"length \d+ tokens, but max_length is 30", page.text)
    assert page.text.count("text tokens") == 1  # of the other one


def test_a_tokenizer_alone_counts_tokens(shard: Path, folders: PartFolders) -> None:
    assert "text tokens" not in page_of(shard, "--keys", "good").text
    assert re.search(r"\d+ text tokens", page_of(shard, "--keys", "good", "--tokenizer", folders.language_model).text)


def test_cached_features_show_what_is_known_of_them(shard: Path, config: Path, tmp_path: Path) -> None:
    from apps import cache_features

    good = write_shard(tmp_path / "good" / "made-000000.tar", [("good", make_record(), make_clip(12), "mp4")])
    features = tmp_path / "features"
    cache_features.main(["-c", str(config), "--shards", str(good), "--out", str(features), "--device", "cpu"])
    page = page_of(features)
    assert page.pictures == []
    assert "12 frames" in page.text
    page = page_of(features, "--config", config, "--device", "cpu")  # its encoder reads pixels
    assert "12 frames" in page.text
    assert "scene 1" not in page.text
    reads_features: dict[str, Any] = {"class_path": "components.encoders.cached.CachedFeatures"}
    reads_features["init_args"] = {"dim": VISION_WIDTH, "num_patches": NUM_PATCHES}
    over = tmp_path / "cached.yaml"
    over.write_text(json.dumps({"model": {"encoder": reads_features}}), encoding="utf-8")
    page = page_of(features, "--config", config, over, "--device", "cpu")
    assert "scene 6: 0:02.5 to 0:02.8, 2 frames" in page.text
    assert page.pictures == []


def test_several_media_are_named_where_a_question_shows_them(tmp_path: Path) -> None:
    record = record_of("<video_1> or <video_0> ?", media=[{}, {"start_ms": 500, "end_ms": 2000}])
    media = [(make_image(), "png"), (make_clip(12), "mp4")]
    page = page_of(write_several(tmp_path / "made-000000.tar", [("two", record, media)]))
    assert "medium 1 or medium 0 ?" in page.text
    assert "used from 0:00.5 to 0:02.0" in page.text


def test_the_answer_is_marked_among_its_options(tmp_path: Path) -> None:
    record = make_record(media=False)
    record["conversations"][0]["options"] = ["blue", "red"]
    page = page_of(write_shard(tmp_path / "made-000000.tar", [("text", record, None, None)]))
    assert '<span class="option chosen">red</span>' in page.source
    assert len(page.of_class("option")) == 2


def test_a_key_that_a_source_has_twice_is_shown_as_wrong(tmp_path: Path) -> None:
    for number, source in enumerate(["made", "made", "other"]):
        sample = ("same", make_record(media=False, source=source), None, None)
        write_shard(tmp_path / "data" / f"made-{number:06}.tar", [sample])
    page = page_of(tmp_path / "data")
    others = re.findall(r"duplicate key source 'made' has this key in \S+?made-00000(\d)", page.text)
    assert others == ["1", "0"] * 2  # in the list, and at the samples


def test_a_shard_that_cannot_be_read_is_shown_and_told(shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shard.parent / "broken-000000.tar").write_bytes(b"no tar")
    page = page_of(shard.parent, status=look.INCOMPLETE)
    assert "broken-000000.tar is truncated or no plain tar" in page.text
    assert "broken-000000.tar is truncated" in capsys.readouterr().err
    assert len(page.of_class("sample")) == 5


def test_a_page_of_broken_shards_alone_is_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken-000000.tar").write_bytes(b"no tar")
    page = page_of(tmp_path / "data", status=look.INCOMPLETE)
    assert page.of_class("sample") == []
    assert "0 samples" in page.text


def test_a_page_never_exceeds_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record([(f"which colour {'&' * 5000} ?", "red")] * 30, media=False)
    shard = write_shard(tmp_path / "made-000000.tar", [(f"text{n}", record, None, None) for n in range(20)])
    page = page_of(shard, "--max-mb", "1")
    assert len(page.source.encode()) <= 1_000_000
    assert 0 < len(page.of_class("sample")) < 20
    assert "samples did not fit into --max-mb 1" in capsys.readouterr().err
    assert "reached its largest size" in page.text


def test_wrong_samples_are_among_a_few_of_many(tmp_path: Path) -> None:
    samples = [(f"text{n:03}", make_record(media=False), None, None) for n in range(60)]
    write_shard(tmp_path / "data" / "good-000000.tar", samples)
    write_members(tmp_path / "data" / "odd-000000.tar", [("alone.mp4", b""), ("mute.png", make_image())])
    page = page_of(tmp_path / "data", "--num", "6")
    assert len(page.of_class("right")) == 4
    assert len(page.of_class("wrong")) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--keys", "nothing"], "no sample of these shards has the key 'nothing'"),
        (["--tokenizer", "no/such/folder"], "no tokenizer in 'no/such/folder'"),
        (["--config", "made.yaml", "--device", "cuda:99"], "--device cuda:99 is not there"),
    ],
)
def test_wrong_arguments_are_refused_by_name(given: list[str], message: str, shard: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        look.main([str(shard), "--out", str(tmp_path / "page.html"), *given])
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--out", "."], "is a folder; give the file to write"),
        (["--out", "x.html", "--no-encoder"], "give a config"),
        (["--out", "x.html", "--num", "0"], "0 is not a number of at least 1"),
        (["--out", "x.html", "--max-mb", "nan"], "nan is not a number of megabytes"),
    ],
)
def test_impossible_options_are_refused(
    given: list[str], message: str, shard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        look.main([str(shard), *given])
    assert ending.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_page_is_not_replaced(tmp_path: Path) -> None:
    shard = tmp_path / "train-000000.tar"
    write_shard(shard, [("a", make_record([("what ?", "red")]), make_image(), "jpg")])
    content = shard.read_bytes()
    with pytest.raises(ValueError, match="is no page of samples; choose another file"):
        look.main([str(shard), "--out", str(shard)])
    assert shard.read_bytes() == content
    for _ in range(2):  # a page may be replaced
        assert look.main([str(shard), "--out", str(tmp_path / "page.html")]) == 0
