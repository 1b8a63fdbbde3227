"""What reading training data costs beside decoding it."""
