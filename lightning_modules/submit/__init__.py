"""Renders training runs as Slurm jobs and submits them: ``python -m lightning_modules.submit``."""
