"""Several videos that play at the same time, read by one model."""

from collections.abc import Sequence

from components.model import VideoLanguageModel
from components.streaming import NextFrames, StreamingSession, push_together


class SessionGroup:
    """Sessions that share a model, and whose frames the encoder reads in one call.

        group = SessionGroup(model)
        one, other = group.open(), group.open()
        group.push([NextFrames(one, frames, frame_ms), NextFrames(other, more_frames, more_ms)])
        one.ask("What happens?")

    Every session answers as it does alone. The encoder has one batch of frames to read instead of many single ones,
    which it does faster, above all on an accelerator.

    Args:
        model: A model in evaluation mode, on any device.

    Raises:
        ValueError: The model cannot stream; see ``StreamingSession``.
    """

    def __init__(self, model: VideoLanguageModel) -> None:
        self.model = model
        StreamingSession(model)  # refuses a model that cannot stream

    def open(self) -> StreamingSession:
        """Start a session. It may be used alone too, and is given up by forgetting it."""
        return StreamingSession(self.model)

    def push(self, given: Sequence[NextFrames]) -> None:
        """Give frames to some of the sessions. If any are refused, or the encoder fails, no session changes.

        Args:
            given: The next frames of every session that has some; see ``StreamingSession.push``.

        Raises:
            ValueError: A session is there twice or is of another model, or ``StreamingSession.push`` refuses frames.
        """
        if not given:
            return
        if len({id(each.session) for each in given}) < len(given):
            raise ValueError("a session is given frames twice in one push: join its frames")
        if any(each.session.model is not self.model for each in given):
            raise ValueError("a session is of another model than the group; open it with the group's open()")
        push_together(given)
