"""From the bytes of a video or picture to the frames that a model reads.

In reading order:

- ``media_reader``: one sample's media to frames, for training. It uses all that follows.
- ``frame_sampling``: which frames of a video are used (``FrameSampling``, ``choose_frames``).
- ``decoders/open_video``: opens a video with PyAV, decord or torchcodec; ``decoders/pyav_decoder`` decodes it.
- ``video_container``, ``video_timeline``, ``video_seek``, ``shown_packets``: the stream, its frame times, seeking.
- ``frame_pixels``: a decoded frame to upright RGB pixels. ``decoded_frames``: sizes and the result.
- ``pictures``, ``picture_metadata``, ``array_media``, ``npy_file``: pictures, and frames stored as an array.
- ``transforms``, ``resizing``: frames to the size that the encoder reads, and augmentation.
- ``picture_tiles``: pictures to several squares of that size.
- ``decoding``: settings. ``decoding_process`` and ``decoding_server``: decoding in a process that can be killed.
- ``file_formats``: what a file is, by its first bytes. ``worker_signals``: Ctrl-C and worker processes.
"""
