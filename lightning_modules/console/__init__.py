"""The command line: reading of config files, messages about wrong settings, summaries of a run."""
