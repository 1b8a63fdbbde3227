"""An HTTP server in the form of OpenAI's chat completions, for questions about videos and pictures.

``web_application`` builds the server's application; ``python -m apps.serve`` runs it. The layers, from the bottom:

- ``api_errors``, ``serving_limits``: errors in OpenAI's form; limits of sizes, times and numbers.
- ``request_fields``, ``chat_request``, ``request_bodies``: read what a client sends.
- ``public_download``, ``stored_files``, ``media_sources``: find the media that a request names.
- ``worker_thread``, ``answering``, ``video_sessions``: run the model.
- ``chat_replies``, ``request_guard``, ``header_timeout``, ``web_application``: HTTP.
"""
