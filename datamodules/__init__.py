"""Data: from shards to batches.

    instruction.py    the LightningDataModule: makes the data loaders, resumes
    loader.py         the settings of reading and batching, and the data loaders
    dataset.py        reads one sample: decodes its media, encodes its conversations
    conversations.py  encodes a conversation by the tokenizer's chat template
    batch.py          the batch that every model reads, and how samples are joined
    failures.py       what happens to wrong samples, and the list of those left out
    errors.py         errors about data
    read_batches.py   counts what a run reads and leaves out
    start_sample.py   a few samples that are read before a run starts

shards/ stores samples, media/ decodes them, order/ fixes the order of training. convert/ and validate/ are commands.
"""

import torchvision_import  # noqa: F401  must precede the first import of torchvision by anyone
