from pathlib import Path

import numpy as np
import pytest

from apps.quickstart.clips import MAX_RUN, Clip, ColourChange, Part, plan_run, read_clip, render, usable_frames
from apps.quickstart.haystack_videos import encode

SIZE = 112
PLAIN = ColourChange(gain=(1.0, 1.0, 1.0), offset=0.0)


def numbered_clip(num_frames: int, width: int) -> Clip:
    """Every pixel of frame i is i."""
    levels = np.arange(num_frames, dtype=np.uint8)[:, None, None, None]
    return Clip("numbered", tuple(np.broadcast_to(levels, (num_frames, h, width, 3)) for h in (120, 160)))


CLIPS = (numbered_clip(200, 150), numbered_clip(97, 213))


@pytest.mark.parametrize("num_frames", [20, 97, 120, 132, 250])
def test_training_and_held_out_frames_are_apart(num_frames: int) -> None:
    train, held_out = usable_frames(num_frames, "train"), usable_frames(num_frames, "held_out")
    assert train.start == 0
    assert held_out.stop == num_frames
    assert held_out.start - train.stop >= round(0.04 * num_frames) >= 1


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_videos_show_frames_of_their_part_alone(part: Part) -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        run = plan_run(random, CLIPS, part, SIZE)._replace(colours=PLAIN)
        shown = render(CLIPS, [run], SIZE)[:, 0, 0, 0]
        assert set(shown.tolist()) <= set(usable_frames(len(CLIPS[run.clip].scales[0]), part))


def test_runs_are_joined_in_order() -> None:
    random = np.random.default_rng(1)
    runs = [plan_run(random, CLIPS, "train", SIZE)._replace(colours=PLAIN) for _ in range(3)]
    assert [len(run.frames) for run in runs] == [MAX_RUN] * 3
    video = render(CLIPS, runs, SIZE)
    assert video.shape == (3 * MAX_RUN, SIZE, SIZE, 3)
    assert video[:, 0, 0, 0].tolist() == [frame for run in runs for frame in run.frames]


def test_very_short_clip_still_gives_runs() -> None:
    run = plan_run(np.random.default_rng(2), (numbered_clip(5, 120),), "held_out", SIZE)
    assert list(run.frames) == [4]


def test_mirrored_run_is_the_crop_seen_from_behind() -> None:
    ramp = np.broadcast_to(np.arange(150, dtype=np.uint8)[:, None], (10, 120, 150, 3))
    clips = (Clip("ramp", (ramp, ramp)),)
    run = plan_run(np.random.default_rng(3), clips, "train", SIZE)._replace(left=20, colours=PLAIN)
    straight = render(clips, [run._replace(mirrored=False)], SIZE)
    mirrored = render(clips, [run._replace(mirrored=True)], SIZE)
    assert straight[0, 0, 0, 0] == 20
    assert np.array_equal(mirrored, straight[:, :, ::-1])


def test_look_changes_colours_mildly_and_leaves_the_clip_alone() -> None:
    run = plan_run(np.random.default_rng(4), CLIPS, "train", SIZE)
    before = CLIPS[0].scales[0].copy()
    plain, changed = (render(CLIPS, [r], SIZE).astype(int) for r in (run._replace(colours=PLAIN), run))
    assert (plain != changed).any()
    assert np.abs(plain - changed).max() <= 80
    assert np.array_equal(CLIPS[0].scales[0], before)


def test_clip_is_read_at_every_scale(tmp_path: Path) -> None:
    file = tmp_path / "grey.mp4"
    file.write_bytes(encode(np.full((7, 90, 180, 3), 90, np.uint8)))
    clip = read_clip(file)
    assert clip.name == "grey"
    assert [frames.shape for frames in clip.scales] == [(7, 120, 240, 3), (7, 160, 320, 3), (7, 240, 480, 3)]
    assert np.abs(clip.scales[0].astype(int) - 90).max() <= 4


def test_varied_backgrounds_turn_frames_and_exchange_colours() -> None:
    random = np.random.default_rng(5)
    frames = np.zeros((40, 120, 160, 3), np.uint8)
    frames[..., 0], frames[..., 2] = np.arange(120, dtype=np.uint8)[:, None], 200
    clips = (Clip("ramp", (frames,) * 3),)
    natural = [plan_run(random, clips, "train", SIZE) for _ in range(30)]
    varied = [plan_run(random, clips, "train", SIZE, "varied") for _ in range(30)]
    assert {run.turns for run in natural} == {0}
    assert {run.turns for run in varied} == {0, 1, 2, 3}
    assert len({run.colours.channels for run in varied}) > 3

    run = natural[0]._replace(colours=PLAIN, mirrored=False)
    upright = render(clips, [run], SIZE)
    look = PLAIN._replace(channels=(2, 1, 0))
    turned = render(clips, [run._replace(turns=1, colours=look)], SIZE)
    assert np.array_equal(np.rot90(upright, axes=(1, 2))[..., ::-1], turned)
