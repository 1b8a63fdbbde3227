"""Stands in for decoders that crash or hang, once it is unpickled in a worker process; imports little there."""

import os
import time
from collections.abc import Iterator
from typing import Any

import datamodules.convert.workers
from datamodules.convert.prepare_media import Preparation


class Deadly(str):
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)


class Failing(str):
    """A name that fails in a way nobody foresees, once it is looked for."""

    def isascii(self) -> bool:
        raise AttributeError("nobody foresaw this")

    def __add__(self, ending: str) -> str:
        raise AttributeError("nobody foresaw this")


class Endless(tuple[str, ...]):
    """Folders that are searched without end."""

    def __iter__(self) -> Iterator[str]:
        time.sleep(1000)
        raise AssertionError("nobody ended this process")


class Impatient(Preparation):
    """Shortens the time after which the process that unpickles it counts as hanging."""

    def __reduce__(self) -> tuple[object, ...]:
        return _impatient, tuple(self)


def _impatient(*fields: Any) -> Preparation:
    datamodules.convert.workers._TIMEOUT_S = 1
    return Preparation(*fields)
