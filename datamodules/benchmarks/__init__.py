"""Reads the questions of public benchmarks, as their authors publish them.

``benchmark.py`` says what a benchmark is. Every other file reads one benchmark, or several that share a format.
``membridge.evaluation`` asks the questions and scores the answers.
"""
