"""Runs before any test module: torchvision must not be imported by another first."""

import torchvision_import  # noqa: F401
