"""A web page to try a model on a video or a webcam: ``python -m apps.demo MODEL``."""

import os

# Gradio asks its makers' servers otherwise. It reads this when it is imported, which only this package does.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
