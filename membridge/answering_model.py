"""The model with ``answer``: from a video's file to the text of an answer."""

from pathlib import Path
from typing import Any, overload

from components.model import VideoLanguageModel as Model
from components.pretrained.folder_writing import frames_of_model
from components.recorded_arguments import constructor_arguments


class VideoLanguageModel(Model):
    """A video language model that reads files of videos and pictures, as it was trained to."""

    @overload
    def answer(
        self,
        media: str | Path,
        question: str,
        *,
        max_new_tokens: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> str: ...

    @overload
    def answer(
        self,
        media: str | Path,
        question: list[str],
        *,
        max_new_tokens: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[str]: ...

    def answer(
        self,
        media: str | Path,
        question: str | list[str],
        *,
        max_new_tokens: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> str | list[str]:
        """Answer questions about a video or a picture, greedily.

        The file is decoded with the frame settings that the model was trained with (``training_facts.frames``).

        Args:
            media: File of a video (MP4, MOV, Matroska, WebM, AVI, GIF) or a picture.
            question: A question, or several about the same file, which is then read once. No question, no answer.
            max_new_tokens: Longest answer; by default that of the model's evaluation in training.
            start_ms: Start of the part of the video to look at; by default its beginning.
            end_ms: End of that part; by default the end of the video.

        Returns:
            The answer, or one for each question.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The part of the video has no length, the model reads cached features, or is in training mode.
            datamodules.errors.SampleError: The file cannot be decoded, or the part is not in the video.
        """
        if self.training:
            raise ValueError("the model is in training mode, which changes answers at random; call model.eval() first")
        # Needs av and torchvision, which opening a model does not.
        from membridge.media_files import read_media_file
        from membridge.video_batches import video_batch

        video = read_media_file(Path(media), self.training_facts.frames, start_ms=start_ms, end_ms=end_ms)
        questions = [question] if isinstance(question, str) else question
        if not questions:
            return []
        limit = self.training_facts.max_new_tokens if max_new_tokens is None else max_new_tokens
        answers = self.generate(video_batch(self, video, self.language_model.prompts(questions)), limit)
        return answers[0] if isinstance(question, str) else answers


def load(path: str | Path, **options: Any) -> VideoLanguageModel:
    """Open a model from its folder or from the model hub.

    Args:
        path: The folder, or its name on the hub.
        **options: See ``VideoLanguageModel.from_pretrained``: ``dtype``, ``device``, ``device_map``, ``load_in_8bit``,
            ``load_in_4bit`` and others.

    Returns:
        The model in evaluation mode.
    """
    return VideoLanguageModel.from_pretrained(path, **options)


def with_answers(model: Model) -> VideoLanguageModel:
    """A model of the same parts that has ``answer``: the model that is passed in stays usable, and shares all weights.

    Args:
        model: A model, such as ``lightning_modules.trained_model.load_model`` opens of a training run.

    Returns:
        The model in evaluation mode. Its frame settings are complete, as in a model folder.

    Raises:
        ValueError: The model cuts pictures into tiles and does not show them, or shows others.
    """
    answering = VideoLanguageModel(**constructor_arguments(model)).eval()
    facts = model.training_facts
    answering.training_facts = facts._replace(frames=frames_of_model(model, facts.frames))
    return answering
