"""The order of training samples, from shards to the batch of a rank.

training_order.py  the settings
draws.py           what can be drawn, and how long it is
text_tokens.py     estimates the tokens of texts from their characters
stream.py          the endless stream of draws, pass after pass over the sources
global_batches.py  cuts the stream into global batches
batch_plan.py      groups draws by length, for batches within a budget
rank_batches.py    splits a global batch over the ranks; batches of an evaluation
fingerprint.py     what a checkpoint stores, so that no run resumes with another order
"""
