"""Opens a trained model and asks it about videos.

    model = membridge.load("FOLDER")                        # or a name on the model hub
    model.answer("video.mp4", "What happens?")
    chat = membridge.Conversation(model)                    # several turns, several videos and pictures
    session = membridge.StreamingSession(model)             # a video that still plays
    model.save_pretrained("OTHER_FOLDER")

This package is a face of few names over ``components`` and ``datamodules``. Nothing here needs Lightning.
"""

import torchvision_import  # noqa: F401  must precede the first import of torchvision by anyone
from components.streaming import StreamingSession
from membridge.answering_model import VideoLanguageModel, load
from membridge.conversation import Conversation

__all__ = ["Conversation", "StreamingSession", "VideoLanguageModel", "load"]
