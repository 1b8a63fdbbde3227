"""Frames that are chosen by the question: each conversation sees the frames that fit it, as if it had only these."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.encoders.hugging_face import HuggingFaceVisionEncoder
from components.flops.step import work_of
from components.interfaces import DecodingSettings, FrameResampling, WholeVideo
from components.model import VideoLanguageModel, text_of
from components.pictures.tile_layout import TileLayout
from components.readers.last_frames import LastFrames
from components.segmenters.fixed_length import FixedLength
from components.selection.dual_encoder_scorer import DualEncoderScorer
from components.selection.segment_multiples import SegmentMultiples
from components.streaming import StreamingSession
from datamodules.batch import Batch, Sample, SampleMedia, collate
from membridge.asking import AskedQuestion, ask_about
from membridge.opened_medium import read_medium
from tests.components.selection.tiny_dual_encoder import make_dual_encoder
from tests.fixtures_models import PartFolders, make_frames, make_mixed_samples, make_model, make_sample

CHOSEN = 3


class BestScores(FrameResampling):
    """The frames with the best scores, in their order."""

    reads_scores = True

    def frame_index(self, video: WholeVideo) -> Tensor:
        assert video.scores is not None
        return video.scores.topk(min(CHOSEN, video.num_frames)).indices.sort().values


class Unlike(FrameResampling):
    """The first frame, and the one that is least like it."""

    reads_features = True

    def frame_index(self, video: WholeVideo) -> Tensor:
        assert video.features is not None
        furthest = int((video.features @ video.features[0]).argmin())
        return torch.tensor(sorted({0, furthest}))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    make_dual_encoder(folder)
    return str(folder)


def choosing_model(folders: PartFolders, clip: str, **changes: Any) -> VideoLanguageModel:
    """A model that shows all patches of the frames that fit the question best."""
    settings = {
        "encoder": partial(HuggingFaceVisionEncoder, clip, layer=-1, joint=True),
        "bridge": partial(LastFrames, num_frames=8),
        "frame_resampling": BestScores(),
        "frame_scorer": partial(DualEncoderScorer, clip),
        "segmenter": FixedLength(2),
    }
    return make_model(folders, **(settings | changes))


def film(folders: PartFolders, *questions: str, length: int = 9) -> Sample:
    """A video with conversations about it."""
    return make_sample(folders, "film", make_frames(length, seed=3), [[(each, "red")] for each in questions])


def chosen_frames(model: VideoLanguageModel, sample: Sample) -> list[list[int]]:
    """The frames that each conversation of a sample reads, by the definition."""
    joint = model.encoder(sample.media[0].frames, torch.tensor([len(sample.media[0].frames)])).joint
    assert model.frame_scorer is not None
    scores = model.frame_scorer(joint, [each.question.question for each in sample.conversations])
    return [row.topk(min(CHOSEN, len(row))).indices.sort().values.tolist() for row in scores]


def shown_to(model: VideoLanguageModel, batch: Batch) -> list[list[Tensor]]:
    """The visual tokens of every medium of every conversation."""
    visual = model.visual_tokens(batch)
    rows = batch.video_index if visual.row_index is None else visual.row_index
    return [[visual.tokens[row][visual.mask[row]] for row in each if row >= 0] for each in rows.tolist()]


def test_a_conversation_sees_the_frames_that_fit_its_question(folders: PartFolders, clip: str) -> None:
    model = choosing_model(folders, clip)
    plain = choosing_model(folders, clip, frame_resampling=None, frame_scorer=None)
    sample = film(folders, "which colour ?", "how many circle ?", "is there a star ?")
    chosen = chosen_frames(model, sample)
    assert len({tuple(each) for each in chosen}) > 1  # or the test would show nothing
    for conversation, frames, (seen,) in zip(
        sample.conversations, chosen, shown_to(model, collate([sample])), strict=True
    ):
        medium = sample.media[0]
        only = SampleMedia(medium.frames[frames], medium.frame_ms[frames])
        ((expected,),) = shown_to(plain, collate([Sample("only", (only,), (conversation,))]))
        torch.testing.assert_close(seen, expected)


def test_a_batch_gives_what_its_conversations_give_alone(folders: PartFolders, clip: str) -> None:
    model = choosing_model(folders, clip)
    samples = make_mixed_samples(folders)
    together = shown_to(model, collate(samples))
    alone = [
        seen
        for sample in samples
        for conversation in sample.conversations
        for seen in shown_to(model, collate([sample._replace(conversations=(conversation,))]))
    ]
    assert list(map(len, together)) == [1, 1, 0, 1, 1]
    for one, other in zip(together, alone, strict=True):
        for seen, expected in zip(one, other, strict=True):
            torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)


def test_a_video_of_several_questions_is_encoded_once(folders: PartFolders, clip: str) -> None:
    model = choosing_model(folders, clip)
    encoded: list[int] = []
    model.encoder.register_forward_hook(lambda _module, inputs, _output: encoded.append(len(inputs[0])))
    model(collate([film(folders, "which colour ?", "how many circle ?")]))
    assert encoded == [9]


def test_every_conversation_trains_the_reader_and_costs_what_it_reads(folders: PartFolders, clip: str) -> None:
    model = choosing_model(folders, clip)
    samples = [film(folders, "which colour ?", "how many ?"), make_sample(folders, "text", None, [[("hi", "yes")]])]
    batch = collate(samples)
    output = model(batch)
    output.loss.backward()
    assert all(bool(each.grad.abs().sum() > 0) for each in model.bridge.parameters() if each.grad is not None)
    assert any(each.grad is not None for each in model.bridge.parameters())
    assert all(each.grad is None for each in model.frame_scorer.parameters())  # type: ignore[union-attr]
    work = work_of(batch, output)
    groups = work.segment_groups["memory"]
    assert groups.sum(dim=1)[work.video_index[work.video_index >= 0]].tolist() == [CHOSEN, CHOSEN]
    assert int(groups.sum()) == 2 * CHOSEN  # the plain text reads nothing


def test_a_batch_without_videos_has_a_loss(folders: PartFolders, clip: str) -> None:
    model = choosing_model(folders, clip)
    output = model(collate([make_sample(folders, "text", None, [[("say hello", "hello")]])]))
    assert bool(output.loss.isfinite())
    assert int(sum(each.sum() for each in output.segment_groups.values())) == 0


def test_questions_that_are_asked_of_an_opened_video_are_answered_as_in_a_batch(
    folders: PartFolders, clip: str
) -> None:
    model = choosing_model(folders, clip)
    sample = film(folders, "which colour ?", "how many circle ?")
    medium = read_medium(model, "film", sample.media[0])
    assert sum(scene.num_frames for scene in medium.scenes) == 9  # the scenes are those of the complete video
    assert medium.encoded is not None
    assert medium.encoded.videos.frames.numel() == 0  # pixels are not kept twice
    asked = [AskedQuestion(each.question.question) for each in sample.conversations]
    settings = DecodingSettings(max_new_tokens=4)
    together = [answer.text for answer in ask_about(model, medium, asked, settings)]
    assert together == [ask_about(model, medium, [each], settings)[0].text for each in asked]
    assert together == model.generate(collate([sample]), 4)
    text = model.language_model.prompts([asked[0].text])
    assert medium.segment_attention(model, text) is None


def test_frames_may_be_chosen_by_what_they_show_alone(folders: PartFolders, clip: str) -> None:
    model = choosing_model(folders, clip, frame_resampling=Unlike(), frame_scorer=None)
    sample = film(folders, "which colour ?", "how many ?")
    batch = collate([sample])
    read = model.read_videos(model.packed_videos(batch))
    joint = model.encoder(batch.frames, batch.frame_counts).joint
    assert joint is not None
    furthest = int((joint @ joint[0]).argmin())
    segments = read.segments["memory"]
    assert segments.frame_index[segments.frame_mask].tolist() == sorted({0, furthest})
    assert model.visual_tokens(batch).row_index is None  # both questions see the same


def test_a_video_is_not_read_without_a_question(folders: PartFolders, clip: str) -> None:
    model = choosing_model(folders, clip)
    batch = collate([film(folders, "which colour ?")])
    with pytest.raises(ValueError, match="cannot be read without one: ask about the video"):
        model.read_videos(model.packed_videos(batch))
    with pytest.raises(ValueError, match="BestScores chooses frames by the complete video"):
        StreamingSession(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_scorer": None}, "BestScores chooses frames by how well they fit the question: set model.frame_scorer"),
        ({"frame_resampling": SegmentMultiples(2)}, "does not choose by the scores"),
        ({"frame_resampling": None}, "does not choose by the scores"),
        ({"encoder": partial(HuggingFaceVisionEncoder, layer=-1)}, "width 32, but the encoder gives none"),
        ({"picture_layout": TileLayout}, "cannot show pictures in tiles"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, folders: PartFolders, clip: str
) -> None:
    encoder = changes.get("encoder")
    if encoder is not None:
        changes = {"encoder": partial(encoder, clip)}
    with pytest.raises(ValueError, match=message):
        choosing_model(folders, clip, **changes)


def test_a_saved_model_takes_its_scorer_along(folders: PartFolders, clip: str, tmp_path: Path) -> None:
    copied = tmp_path / "clip"
    make_dual_encoder(copied)
    model = choosing_model(folders, str(copied))
    batch = collate([film(folders, "which colour ?", "how many circle ?")])
    expected = model.visual_tokens(batch)
    model.save_pretrained(tmp_path / "model")
    for path in copied.iterdir():
        path.unlink()
    opened = VideoLanguageModel.from_pretrained(tmp_path / "model", packages=[BestScores.__module__])
    torch.testing.assert_close(opened.visual_tokens(batch).tokens, expected.tokens)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_are_the_cosine_similarities_of_the_dual_model(kind: Any, tmp_path: Path) -> None:
    model = make_dual_encoder(tmp_path, kind)
    encoder = HuggingFaceVisionEncoder(str(tmp_path), layer=-1, joint=True)
    scorer = DualEncoderScorer(str(tmp_path))
    joint = encoder(make_frames(4), torch.tensor([4])).joint
    assert joint is not None
    questions = ["which colour ?", "is there a star and a circle and a square and a triangle or is there none ?"]
    scores = scorer(joint, questions)
    read = scorer.tokenizer(questions, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    mask = {} if kind == "siglip" else {"attention_mask": read["attention_mask"]}
    with torch.no_grad():
        text = model.get_text_features(input_ids=read["input_ids"], **mask).pooler_output
    expected = torch.nn.functional.cosine_similarity(text[:, None], joint[None], dim=2)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    alone = torch.cat([scorer(joint, [each]) for each in questions])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_without_text_is_refused(folders: PartFolders) -> None:
    with pytest.raises(ValueError, match="which shares no space between pictures and text: take one of clip, siglip"):
        DualEncoderScorer(folders.encoder)


def test_the_question_is_read_back_from_the_tokens(folders: PartFolders, clip: str) -> None:
    model = choosing_model(folders, clip)
    dialogue = [("which colour ?", "red"), ("how many ?", "two")]
    batch = collate([make_sample(folders, "talk", make_frames(3), [dialogue]), *make_mixed_samples(folders)])
    words = model.language_model.question_words(text_of(batch))
    assert words == ["which colour ?", "which colour ?", "which shape ?", "", "how many ?", "which colour ?"]
