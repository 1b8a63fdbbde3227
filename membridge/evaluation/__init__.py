"""Evaluates a model on the questions of public benchmarks.

``item_answers.py`` asks the questions about one video, ``benchmark_run.py`` those of a benchmark, over processes.
``scorers.py`` says which answers are right. ``datamodules.benchmarks`` reads the questions.
"""
