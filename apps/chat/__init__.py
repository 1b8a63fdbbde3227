"""A conversation with a trained model in the terminal; see ``python -m apps.chat --help``."""
