"""A model in a folder: everything that is needed to open it, without trainer and working directory.

In reading order:

- ``saved_in_folder``: ``from_pretrained`` and ``save_pretrained`` of the model.
- ``model_folder``: which files there are. ``folder_writing`` and ``folder_reading`` write and read them.
- ``object_description``, ``object_builder``: a part as class_path and init_args, and back.
- ``weight_sources``: the folders and files that parts read their frozen weights from.
- ``frame_settings``: what a video must become. ``model_card``: ``README.md``.
"""
