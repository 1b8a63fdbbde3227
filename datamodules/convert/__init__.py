"""Converts other projects' instruction data into shards: ``python -m datamodules.convert``.

In the order of a conversion:

- ``sources``: the layouts of other projects; a new one is added there. ``sampling``: which rows of a file are used.
- ``json_rows``, ``json_text``: rows of a JSON file of any size. ``webdataset_rows``, ``tar_contents``: samples of tars.
- ``rows``, ``row_fields``, ``video_spans``, ``media_marks``: a row to one conversation. ``row_problems``: why a row is
  left out.
- ``conversion_settings``, ``plan``, ``planned_samples``: options, and the file that lets a stopped conversion continue.
- ``conversion_run``: the two passes, first over the rows and then over the samples.
- ``workers``, ``prepare_media``, ``media_paths``: worker processes find and check media. ``video_check``: measures a
  video.
- ``reencode_video``, ``reencode_picture``: media in another size or format.
- ``conversion_report``: the counts at the end.
"""
