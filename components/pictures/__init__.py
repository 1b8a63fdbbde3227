"""What the language model sees of pictures that were cut into tiles."""
