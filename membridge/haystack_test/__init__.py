"""The haystack test: made-up videos of any length with short events, and questions about the events.

``backgrounds.py`` makes the haystack and ``made_video.py`` the frames of a video, piece by piece. ``haystack_run.py``
asks a model, and ``heat_map.py`` shows right answers by length and depth. ``datamodules.haystack`` plans the videos.
"""
