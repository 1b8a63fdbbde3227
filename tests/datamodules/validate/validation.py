"""Runs the validation of shards and reads its report."""

import json
from pathlib import Path
from typing import Any

from datamodules.validate.__main__ import main


def validate(*arguments: object, report: Path) -> tuple[int, dict[str, Any]]:
    status = main([*map(str, arguments), "--report", str(report)])
    return status, json.loads(report.read_text(encoding="utf-8"))


def kinds(report: dict[str, Any]) -> dict[str, str]:
    return {found["key"]: found["kind"] for found in report["wrong_samples"]}
