"""Trains arms of an ablation side by side and compares them: ``python -m benchmarks.ablation -c SWEEP.yaml``.

- ``sweep_file.py``: the YAML file of a sweep.
- ``tasks.py``, ``three_tasks.py``: what arms are trained on.
- ``runs.py``, ``training.py``: the runs, finished ones kept, stopped ones resumed.
- ``held_out.py``, ``measures.py``, ``rank.py``: what a trained arm stores and costs.
- ``results.py``, ``report.py``, ``drawing.py``: tables and plot.
"""
