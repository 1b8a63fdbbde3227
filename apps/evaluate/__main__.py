"""The command behind ``evaluate.py``: chooses what to evaluate by its arguments."""

import sys
from collections.abc import Sequence

from apps.evaluate import benchmarks, command, haystack_test, paired_comparison


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``compare``, an evaluation on benchmarks, the haystack test, or an evaluation on shards.

    Args:
        arguments: Command line after the program's name; that of the process by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["compare"]:
        paired_comparison.main(given[1:])
    elif any(each.split("=")[0] == "--benchmark" for each in given):
        benchmarks.main(given)
    elif any(each.split("=")[0] == "--niavh" for each in given):
        haystack_test.main(given)
    else:
        command.main(given)
