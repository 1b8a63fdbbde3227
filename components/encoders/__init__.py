"""Frame encoders: frozen models that turn frames into class vectors and patch features.

- ``pixel_encoder``: the base class of encoders that read pixels. Write a new one on it: it needs ``encode_chunk`` only.
- ``hugging_face``: any vision transformer of Hugging Face (CLIP, SigLIP, DINOv2 ...). It uses ``vision_model`` (loads
  the model and finds the form of its tokens), ``vision_outputs`` (takes features, saliency and joint embedding from
  it), ``patch_attention`` (reads the attention of one layer) and ``image_settings`` (pixel mean, deviation and size).
- ``languagebind``: LanguageBind's video and image transformers, as in VideoLLaMB. It uses ``languagebind_transformer``
  (the network) and ``languagebind_weights`` (its checkpoints).
- ``cached``: reads features that an encoder computed earlier.
- ``frame_check``: the check of dtype and size that encoders of pixels share.
"""
