"""Readers that store what they have seen instead of summarising it. Memory bridges are in ``components/bridges``.

- ``FineFrames``: a few frames, evenly spread over the video so far, with all their patches.
- ``LastFrames``, ``RandomFrames``, ``NovelFrames``: banks of at most so many whole frames, each with its own rule.
- ``SimilarityMerge``: such a bank that merges neighbouring frames instead of dropping any.
- ``TokenStore``: all tokens, which a ``TokenReadout`` turns into visual tokens (``components/readers/readouts``).
"""
