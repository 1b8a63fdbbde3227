"""A video that plays is cut, compared and answered as the model does with the complete video."""

import pytest
import torch

from components.interfaces import DecodingSettings
from components.model import VideoLanguageModel
from components.segmenters.fixed_length import FixedLength
from components.streaming import StreamingSession
from datamodules.media.sample_media import SampleMedia
from membridge.opened_medium import read_medium
from membridge.playing_video import PlayingVideo
from tests.fixtures_models import PartFolders, make_frames, make_model

NUM_FRAMES = 9
TIMES = [500 * number for number in range(NUM_FRAMES)]


@pytest.fixture(scope="module")
def model(folders: PartFolders) -> VideoLanguageModel:
    return make_model(folders, segmenter=FixedLength(4))


def play(model: VideoLanguageModel, at_once: int) -> PlayingVideo:
    video, frames = PlayingVideo(model), make_frames(NUM_FRAMES)
    for first in range(0, NUM_FRAMES, at_once):
        video.push(frames[first : first + at_once], TIMES[first : first + at_once])
    return video


@pytest.mark.parametrize("at_once", [1, 3, NUM_FRAMES])
def test_scenes_and_similarity_are_those_of_the_complete_video(model: VideoLanguageModel, at_once: int) -> None:
    expected = read_medium(model, "video", SampleMedia(make_frames(NUM_FRAMES), torch.tensor(TIMES)))
    video = play(model, at_once)
    assert video.frame_ms == TIMES
    assert [scene._replace(admitted=None) for scene in expected.scenes][:2] == video.scenes
    assert len(expected.scenes) == 3  # the last one has not ended
    torch.testing.assert_close(torch.tensor(video.similarity), torch.tensor(expected.similarity))


def test_an_ended_scene_comes_with_its_own_frames(model: VideoLanguageModel) -> None:
    video, frames = PlayingVideo(model), make_frames(NUM_FRAMES)
    ended = [each for number, frame in enumerate(frames) for each in video.push(frame[None], [TIMES[number]])]
    for number, each in enumerate(ended):
        assert torch.equal(each.media.frames, frames[4 * number : 4 * number + 4])
        assert each.media.frame_ms.tolist() == TIMES[:4]
    assert len(ended) == 2


def test_an_answer_is_that_of_a_session(model: VideoLanguageModel) -> None:
    session = StreamingSession(model)
    session.push(make_frames(NUM_FRAMES), TIMES)
    told = play(model, 2).answer("which colour ?", DecodingSettings(max_new_tokens=5))
    assert told == session.ask("which colour ?", 5)


def test_other_videos_of_the_model_are_not_compared_with_it(model: VideoLanguageModel) -> None:
    one, other, frames = PlayingVideo(model), PlayingVideo(model), make_frames(4)
    for number, frame in enumerate(frames):
        one.push(frame[None], [number])
        other.push(frames[0][None], [number])
    assert other.similarity == [1.0] * 3
    assert max(one.similarity) < 1.0


def test_refused_frames_change_nothing(model: VideoLanguageModel) -> None:
    video = play(model, 3)
    before = list(video.frame_ms), list(video.similarity), list(video.scenes)
    with pytest.raises(ValueError, match="must not decrease"):
        video.push(make_frames(1), [0])
    assert (video.frame_ms, video.similarity, video.scenes) == before
    assert not model.encoder._forward_hooks
