"""What a person reads who runs a command: messages about settings, summaries of a run, and no foreign noise."""
