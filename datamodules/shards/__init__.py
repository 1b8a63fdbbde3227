"""Shards: WebDataset tar files with media and conversations, local or remote.

schema.py         what a sample of a shard may hold; checks its JSON
shard_writer.py   writes shards
shard_names.py    from paths, folders, patterns and urls to a list of shards
shard_scan.py     reads a tar's headers and finds its samples
shard_index.py    makes and reads the index file of a shard
index_entries.py  the content of an index file
shard_reader.py   reads samples by number
media_range.py    the bytes of one media file inside a shard
storage.py        object stores and web servers
shard_cache.py    local copies of remote shards
"""
