"""The plan of a conversion, in an SQLite file: which samples to write in which order, and which are written.

The rows may not fit into memory, and rows about the same video may be far apart. So a first pass over the annotations
stores every row under its sample, and the second pass reads the samples. The file also stores the progress of writing,
so a stopped conversion continues from it.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from datamodules.convert.planned_samples import LeftOut, PlannedSample, Progress, SampleIdentity
from datamodules.convert.row_media import RowMedium
from datamodules.convert.row_problems import ConversionError, Reason, RowProblem
from datamodules.shards.schema import MAX_CONVERSATIONS_BYTES

_TABLES = """
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE annotations (number INTEGER PRIMARY KEY, label TEXT, num_rows INTEGER);
CREATE TABLE samples (number INTEGER PRIMARY KEY, digest BLOB UNIQUE, media TEXT, folders TEXT, start_ms INTEGER,
                      end_ms INTEGER, source TEXT, named_as TEXT, frame_interval_ms REAL, several TEXT);
CREATE TABLE conversations (number INTEGER PRIMARY KEY, sample INTEGER, annotation INTEGER, row INTEGER, json TEXT);
CREATE TABLE left_out (annotation INTEGER, row INTEGER, media TEXT, reason TEXT, message TEXT);
"""
_SAMPLES_TABLE = "SELECT sql FROM sqlite_master WHERE name = 'samples'"
_NEW_COLUMNS = {"named_as": "TEXT", "frame_interval_ms": "REAL", "several": "TEXT"}
"""Columns that older versions do not have, in this order."""
_CACHE_KIB = 65_536


class Plan:
    """The plan file, open and locked against other processes.

    Args:
        path: The file; created if it does not exist.
        settings: What the result depends on. A file with other settings is refused.
        restart: Whether to remove the contents of the file first, whatever its settings.

    Raises:
        ConversionError: Another process uses it, or it belongs to a conversion with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], restart: bool = False) -> None:
        self.path = path
        self._database = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._database.execute("BEGIN EXCLUSIVE")  # locked until the file is closed
            tables = [name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            if restart:
                for table in tables:
                    self._database.execute(f"DROP TABLE {table}")
            if restart or not tables:
                for statement in _TABLES.split(";"):
                    self._database.execute(statement)
            else:
                self._add_new_columns()
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise ConversionError(f"{path} is in use ({error}); is the same conversion running already?") from error
        except sqlite3.DatabaseError as error:
            raise ConversionError(f"{path} is no plan of a conversion ({error}); remove it to start again") from error
        if self.is_filled:
            self._check_settings(json.loads(json.dumps(settings)))
        else:
            self._store("settings", settings)

    def __enter__(self) -> "Plan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()  # uncommitted changes are lost, as after a kill

    @property
    def is_filled(self) -> bool:
        """Whether the first pass has finished."""
        return self._load("filled") is not None

    @property
    def num_samples(self) -> int:
        """Samples to write."""
        return int(self._database.execute("SELECT count(*) FROM samples").fetchone()[0])

    def progress(self) -> Progress:
        """What is written so far."""
        stored = self._load("progress")
        return Progress() if stored is None else Progress(*stored)

    def start_filling(self) -> None:
        """Begin the first pass; it is stored by ``end_filling``, not before."""
        self._database.execute("BEGIN")

    def add_annotation(self, number: int, label: str, num_rows: int) -> None:
        """Store how many rows of an annotation file were read."""
        self._database.execute("INSERT INTO annotations VALUES (?, ?, ?)", (number, label, num_rows))

    def add_row(
        self, identity: SampleIdentity, digest: bytes, source: str, position: tuple[int, int], conversation: str
    ) -> None:
        """Add a row's conversation to its sample, which the first of its rows creates.

        Args:
            identity: What the sample shows.
            digest: Of the identity.
            source: The sample's source, if this row creates the sample.
            position: Numbers of annotation and row.
            conversation: JSON.
        """
        names = ", ".join(medium.path for medium in identity.media) or None
        first = identity.media[0] if len(identity.media) == 1 else RowMedium("")
        self._database.execute(
            "INSERT OR IGNORE INTO samples (digest, media, folders, start_ms, end_ms, source, named_as, "
            "frame_interval_ms, several) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                digest,
                names,
                json.dumps(identity.folders),
                first.start_ms,
                first.end_ms,
                source,
                first.named_as,
                first.frame_interval_ms,
                json.dumps(identity.media) if len(identity.media) > 1 else None,
            ),
        )
        (sample,) = self._database.execute("SELECT number FROM samples WHERE digest = ?", (digest,)).fetchone()
        self._database.execute(
            "INSERT INTO conversations (sample, annotation, row, json) VALUES (?, ?, ?, ?)",
            (sample, *position, conversation),
        )

    def leave_out_row(self, position: tuple[int, int], problem: RowProblem) -> None:
        """List a row that cannot be used."""
        self._database.execute(
            "INSERT INTO left_out VALUES (?, ?, NULL, ?, ?)", (*position, problem.reason, problem.message)
        )

    def end_filling(self, unread: Mapping[str, int]) -> None:
        """Store the first pass.

        Args:
            unread: Number of rows with a field or mark that is not read, by its name.
        """
        self._store("unread", unread)
        self._database.execute("CREATE INDEX conversations_of_sample ON conversations (sample, number)")
        self._store("filled", True)
        self._database.execute("COMMIT")

    def samples(self, first: int, first_piece: int = 0) -> Iterator[PlannedSample]:
        """Samples starting with this number and piece, in the order in which the annotations first name their media."""
        rows = self._database.execute(
            "SELECT number, digest, folders, source, several, media, named_as, start_ms, end_ms, frame_interval_ms "
            "FROM samples WHERE number >= ? ORDER BY number",
            (first,),
        )
        for number, digest, folders, source, several, *one in rows:
            conversations = self._database.execute(
                "SELECT number, json FROM conversations WHERE sample = ? ORDER BY number", (number,)
            )
            for piece, group in enumerate(_pieces(conversations)):
                if number > first or piece >= first_piece:
                    yield PlannedSample(
                        number,
                        piece,
                        f"{digest.hex()}-{piece}" if piece else digest.hex(),
                        _media(several, one),
                        tuple(json.loads(folders)),
                        source,
                        tuple(json.loads(text) for _, text in group),
                        (group[0][0], group[-1][0]),
                    )

    def start_writing(self) -> None:
        """Begin the second pass; changes between two calls of ``store_progress`` are stored together or not at all."""
        self._database.execute("BEGIN")

    def leave_out_sample(self, sample: PlannedSample, problem: RowProblem) -> None:
        """List the rows of a sample whose media cannot be used."""
        self._database.execute(
            "INSERT INTO left_out SELECT annotation, row, samples.media, ?, ? FROM conversations "
            "JOIN samples ON samples.number = sample WHERE sample = ? AND conversations.number BETWEEN ? AND ?",
            (problem.reason, problem.message, sample.number, *sample.rows),
        )

    def store_progress(self, progress: Progress) -> None:
        """Store the progress; call it when all samples before ``progress.next_sample`` are written or left out."""
        self._store("progress", progress)
        if progress.finished:  # their rows are in the shards
            self._database.execute("DELETE FROM conversations")
            self._database.execute("DELETE FROM samples")
        self._database.execute("COMMIT")
        self._database.execute("VACUUM" if progress.finished else "BEGIN")

    def rows_read(self) -> dict[str, int]:
        """Number of rows of every annotation file, by its label."""
        found = self._database.execute("SELECT label, num_rows FROM annotations ORDER BY number")
        return {label: num_rows for label, num_rows in found}

    def unread(self) -> dict[str, int]:
        """Number of rows with a field or mark that is not read, by its name."""
        return self._load("unread") or {}  # plans of earlier versions do not have it

    def left_out(self) -> Iterator[LeftOut]:
        """Rows that were not written, in the annotations' order."""
        found = self._database.execute(
            "SELECT label, row, media, reason, message FROM left_out JOIN annotations ON number = annotation "
            "ORDER BY annotation, row"
        )
        for label, row, media, reason, message in found:
            yield LeftOut(label, row, media, Reason(reason), message)

    def _add_new_columns(self) -> None:
        """Bring the plan of an older version up to date."""
        columns = str(self._database.execute(_SAMPLES_TABLE).fetchone())
        for name, kind in _NEW_COLUMNS.items():
            if name not in columns:
                self._database.execute(f"ALTER TABLE samples ADD COLUMN {name} {kind}")

    def _check_settings(self, settings: dict[str, Any]) -> None:
        stored = self._load("settings")
        if stored != settings:
            names = settings.keys() | stored.keys()
            different = sorted(name for name in names if stored.get(name) != settings.get(name))
            self._database.close()
            raise ConversionError(
                f"{self.path} belongs to a conversion with other settings or inputs (different: "
                f"{', '.join(different)}); give the same ones to continue, another OUT or --name for a second one, "
                "or --restart to remove its shards and convert again"
            )

    def _store(self, name: str, value: Any) -> None:
        self._database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value)))

    def _load(self, name: str) -> Any:
        found = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])


def _media(several: str | None, one: Sequence[Any]) -> tuple[RowMedium, ...]:
    """The media of a sample: of several as JSON, of one as the columns of the table."""
    if several is not None:
        return tuple(RowMedium(*fields) for fields in json.loads(several))
    return () if one[0] is None else (RowMedium(*one),)


def _pieces(conversations: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Group conversations so that each group can be read as the JSON of one sample."""
    group: list[tuple[int, str]] = []
    num_bytes = 0
    for number, text in conversations:
        num_more = len(text.encode()) + len(", ")
        if group and num_bytes + num_more > MAX_CONVERSATIONS_BYTES:
            yield group
            group, num_bytes = [], 0
        group.append((number, text))
        num_bytes += num_more
    yield group
