"""What the language model sees of a recurrent bridge's state. One class a file; all read the same ``MemoryState``.

- ``CacheReadout``: learned queries attend to what every segment wrote. A fixed number of tokens for any video.
- ``RetrievedReadout``: the same, but the queries have read the question first. Tokens are computed for each question.
- ``MemoryReadout``: the memory tokens after the last segment.
- ``CacheAndMemoryReadout``: both, one after the other; the default.
- ``LastSegmentReadout``: the patch tokens of the last segment, on request with the memory tokens in front.
"""
