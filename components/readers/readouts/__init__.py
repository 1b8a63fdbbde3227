"""What the language model sees of stored tokens. One class a file; all read the same ``StoredTokens``.

- ``ProjectAll``: every token, projected; the default.
"""
