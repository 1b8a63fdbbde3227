"""Measures what a video that plays for ten hours costs, and several videos at once; see ``__main__``."""
