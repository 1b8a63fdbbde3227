"""A web page of samples: frames, scenes, conversations, and what is wrong. ``python -m apps.look`` writes it.

The layers, from the bottom:

- ``shown_sample``: what is shown of a sample. ``sample_choice``: which samples.
- ``whole_frames``, ``video_cuts``, ``sample_texts``, ``sample_reading``: read a sample.
- ``page_style``, ``html_text``, ``media_html``, ``sample_html``, ``page_html``: write the page.
"""
