"""Runs a module as ``python -m`` does and ends the process right after it; see ``run_processes``.

Threads of gloo can abort a process at the interpreter's end ("terminate called without an active exception"), after
everything was done. What a test is about has happened by then.
"""

import torchvision_import  # noqa: F401  before anything that imports torchvision

# isort: split
import os
import runpy
import sys


def main(module: str) -> int:
    """Run the module. An exception other than ``SystemExit`` ends the process as usual.

    Returns:
        The exit status that the module asked for.
    """
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        if ending.code is None or isinstance(ending.code, int):
            return ending.code or 0
        raise
    return 0


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    status = main(sys.argv[0])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
