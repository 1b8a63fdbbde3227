"""A web page to try a model on a video or a webcam: ``python -m apps.demo MODEL``."""
