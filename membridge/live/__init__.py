"""Captions for a video that still plays.

- ``video_sources``: opens a file, the standard input, a camera or a stream, and decodes it.
- ``stream_clock``: times of frames from the start of the video, and which of them are sampled.
- ``frame_queue``, ``live_frames``: a thread reads frames; where the model is slower than a live stream, frames are
  dropped evenly.
- ``scene_captions``: lets a model caption every scene when it ends.
- ``caption_files``: subtitle files that are complete after every caption.
"""
