"""Judges a model by the questions of public benchmarks.

``judge.py`` asks the questions about one video, ``benchmark_run.py`` those of a benchmark, over several processes.
``scorers.py`` says which answers are right. ``datamodules.benchmarks`` reads the questions.
"""
