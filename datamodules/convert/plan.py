"""The plan of a conversion, in an SQLite file: which samples to write in which order, and how far writing got.

Rows of a gigabyte do not fit into memory, and rows that share a video need not stand together; so a first pass over the
annotations puts every row into this file under its sample. The second pass reads samples from it. What writing has
finished is kept in it too: a stopped conversion opens the same file and goes on.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from datamodules.convert.planned_samples import LeftOut, PlannedSample, Progress, SampleIdentity
from datamodules.convert.row_problems import ConversionError, Reason, RowProblem
from datamodules.shards.schema import MAX_CONVERSATIONS_BYTES

_TABLES = """
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE annotations (number INTEGER PRIMARY KEY, label TEXT, num_rows INTEGER);
CREATE TABLE samples (number INTEGER PRIMARY KEY, digest BLOB UNIQUE, media TEXT, folders TEXT, start_ms INTEGER,
                      end_ms INTEGER, source TEXT, named_as TEXT, frame_interval_ms REAL);
CREATE TABLE conversations (number INTEGER PRIMARY KEY, sample INTEGER, annotation INTEGER, row INTEGER, json TEXT);
CREATE TABLE left_out (annotation INTEGER, row INTEGER, media TEXT, reason TEXT, message TEXT);
"""
_SAMPLES_TABLE = "SELECT sql FROM sqlite_master WHERE name = 'samples'"
_NEW_COLUMNS = {"named_as": "TEXT", "frame_interval_ms": "REAL"}  # that older versions did not have, in this order
_CACHE_KIB = 65_536


class Plan:
    """The open file. No other process can open it at the same time.

    Args:
        path: The file; made if it is not there.
        settings: What the result depends on. A file that was made with others is refused.
        restart: Whether what the file holds is removed first, whatever it was made with.

    Raises:
        ConversionError: Another process works on it, or it belongs to a conversion with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], restart: bool = False) -> None:
        self.path = path
        self._database = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._database.execute("BEGIN EXCLUSIVE")  # the lock stays until the file is closed
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
            self._keep("settings", settings)

    def __enter__(self) -> "Plan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()  # what was not committed is gone, as after a kill

    @property
    def is_filled(self) -> bool:
        """Whether the first pass is through."""
        return self._kept("filled") is not None

    @property
    def num_samples(self) -> int:
        """Samples to write."""
        return int(self._database.execute("SELECT count(*) FROM samples").fetchone()[0])

    def progress(self) -> Progress:
        """How far writing got."""
        kept = self._kept("progress")
        return Progress() if kept is None else Progress(*kept)

    def start_filling(self) -> None:
        """Begin the first pass; until ``end_filling`` nothing of it is kept."""
        self._database.execute("BEGIN")

    def add_annotation(self, number: int, label: str, num_rows: int) -> None:
        """Note how many rows of an annotation file were read."""
        self._database.execute("INSERT INTO annotations VALUES (?, ?, ?)", (number, label, num_rows))

    def add_row(
        self, identity: SampleIdentity, digest: bytes, source: str, place: tuple[int, int], conversation: str
    ) -> None:
        """Put a row's conversation under its sample, the first of a sample making it.

        Args:
            identity: What the sample shows.
            digest: Of the identity.
            source: The sample's source, if this row makes it.
            place: Annotation and row.
            conversation: JSON.
        """
        is_text = not identity.folders
        self._database.execute(
            "INSERT OR IGNORE INTO samples (digest, media, folders, start_ms, end_ms, source, named_as, "
            "frame_interval_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                digest,
                None if is_text else identity.media,
                json.dumps(identity.folders),
                identity.start_ms,
                identity.end_ms,
                source,
                identity.named_as,
                identity.frame_interval_ms,
            ),
        )
        (sample,) = self._database.execute("SELECT number FROM samples WHERE digest = ?", (digest,)).fetchone()
        self._database.execute(
            "INSERT INTO conversations (sample, annotation, row, json) VALUES (?, ?, ?, ?)",
            (sample, *place, conversation),
        )

    def leave_out_row(self, place: tuple[int, int], problem: RowProblem) -> None:
        """List a row that cannot be used."""
        self._database.execute(
            "INSERT INTO left_out VALUES (?, ?, NULL, ?, ?)", (*place, problem.reason, problem.message)
        )

    def end_filling(self, unread: Mapping[str, int]) -> None:
        """Keep the first pass.

        Args:
            unread: Rows that have a field or a mark which nothing reads, by its name.
        """
        self._keep("unread", unread)
        self._database.execute("CREATE INDEX conversations_of_sample ON conversations (sample, number)")
        self._keep("filled", True)
        self._database.execute("COMMIT")

    def samples(self, first: int, first_piece: int = 0) -> Iterator[PlannedSample]:
        """Samples from this number and piece on, in the order in which the annotations name their media first."""
        rows = self._database.execute("SELECT * FROM samples WHERE number >= ? ORDER BY number", (first,))
        for number, digest, media, folders, start_ms, end_ms, source, named_as, frame_interval_ms in rows:
            conversations = self._database.execute(
                "SELECT number, json FROM conversations WHERE sample = ? ORDER BY number", (number,)
            )
            for piece, group in enumerate(_pieces(conversations)):
                if number > first or piece >= first_piece:
                    yield PlannedSample(
                        number,
                        piece,
                        f"{digest.hex()}-{piece}" if piece else digest.hex(),
                        media,
                        tuple(json.loads(folders)),
                        start_ms,
                        end_ms,
                        source,
                        tuple(json.loads(text) for _, text in group),
                        (group[0][0], group[-1][0]),
                        named_as,
                        frame_interval_ms,
                    )

    def start_writing(self) -> None:
        """Begin the second pass; what happens between two ``store_progress`` is kept together or not at all."""
        self._database.execute("BEGIN")

    def leave_out_sample(self, sample: PlannedSample, problem: RowProblem) -> None:
        """List the rows of a sample whose media cannot be used."""
        self._database.execute(
            "INSERT INTO left_out SELECT annotation, row, samples.media, ?, ? FROM conversations "
            "JOIN samples ON samples.number = sample WHERE sample = ? AND conversations.number BETWEEN ? AND ?",
            (problem.reason, problem.message, sample.number, *sample.rows),
        )

    def store_progress(self, progress: Progress) -> None:
        """Note finished shards; to be called when all before ``progress.next_sample`` is written or left out."""
        self._keep("progress", progress)
        if progress.finished:  # the rows are in the shards now
            self._database.execute("DELETE FROM conversations")
            self._database.execute("DELETE FROM samples")
        self._database.execute("COMMIT")
        self._database.execute("VACUUM" if progress.finished else "BEGIN")

    def rows_read(self) -> dict[str, int]:
        """Rows of every annotation file, by its label."""
        found = self._database.execute("SELECT label, num_rows FROM annotations ORDER BY number")
        return {label: num_rows for label, num_rows in found}

    def unread(self) -> dict[str, int]:
        """Rows that have a field or a mark which nothing reads, by its name."""
        return self._kept("unread") or {}  # plans of earlier versions do not have it

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
        made_with = self._kept("settings")
        if made_with != settings:
            names = settings.keys() | made_with.keys()
            different = sorted(name for name in names if made_with.get(name) != settings.get(name))
            self._database.close()
            raise ConversionError(
                f"{self.path} belongs to a conversion with other settings or inputs (different: "
                f"{', '.join(different)}); give the same ones to go on, another OUT or --name to start a second one, "
                "or --restart to remove its shards and convert again"
            )

    def _keep(self, name: str, value: Any) -> None:
        self._database.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value)))

    def _kept(self, name: str) -> Any:
        found = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])


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
