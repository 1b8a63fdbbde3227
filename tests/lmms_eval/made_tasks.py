"""Tasks of lmms-eval on made-up questions, clips and pictures: YAML files with their functions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FUNCTIONS = '''
from pathlib import Path

from PIL import Image


def media(doc):
    """What the question shows, in every form that tasks have."""
    shown = doc["shown"]
    if doc["form"] == "bare":
        return shown[0]
    if doc["form"] == "pictures":
        return [Image.open(path) for path in shown]
    if doc["form"] == "part":
        return [{"type": "video", "url": shown[0], "video_start": 1.0, "video_end": 3.0}]
    return list(shown)


def text(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None, previous_round_info=None):
    """The prompt; in the second round another one, about what was answered in the first."""
    if round_idx is None:
        return doc["prompt"]
    if round_idx == 1:
        return media(doc), "and " + previous_output[0] + " ?", False, previous_output, "asked"
    assert previous_round_info == "asked"
    return None, None, True, previous_output, None


def messages(doc, lmms_eval_specific_kwargs=None):
    system = {"role": "system", "content": [{"type": "text", "text": "which colour"}]}
    first = {"role": "user", "content": [{"type": "text", "text": doc["prompt"]}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
    shown = [{"type": "video", "url": path} for path in doc["shown"]]
    return [system, first, answer, {"role": "user", "content": [*shown, {"type": "text", "text": "which shape ?"}]}]


def scored(doc, results):
    return {"answer": {"id": doc["id"], "text": results[0]}}


def nothing(results):
    return 0.0
'''
_GENERATED = {
    "generation_kwargs": {"max_new_tokens": 6},
    "doc_to_target": "answer",
    "process_results": "!utils.scored",
    "metric_list": [{"metric": "answer", "aggregation": "!utils.nothing", "higher_is_better": True}],
}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "generate": {"output_type": "generate_until", "doc_to_text": "!utils.text", **_GENERATED},
    "rounds": {"output_type": "generate_until_multi_round", "doc_to_text": "!utils.text", **_GENERATED},
    "messages": {
        "output_type": "generate_until",
        "doc_to_text": "!utils.text",
        "doc_to_messages": "!utils.messages",
        **_GENERATED,
    },
    "sample": {
        "output_type": "generate_until",
        "doc_to_text": "!utils.text",
        **_GENERATED,
        "generation_kwargs": {"max_new_tokens": 6, "temperature": 1.0, "do_sample": True},
    },
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "options",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
}


def write_task(folder: Path, name: str, form: str, documents: Sequence[Mapping[str, Any]], **changes: Any) -> None:
    """Write a task: ``NAME.yaml``, its documents and its functions.

    Args:
        folder: Where to write; may hold other tasks.
        name: Name of the task.
        form: What it asks for, see ``FORMS``.
        documents: ``id``, ``prompt``, ``question``, ``options``, ``answer``, ``shown`` (paths) and ``form`` of media.
        changes: Other settings of the task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "utils.py").write_text(FUNCTIONS)
    rows = folder / f"{name}.jsonl"
    rows.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "doc_to_visual": "!utils.media",
        **FORMS[form],
        **changes,
    }
    # JSON is YAML but for functions, which have a tag.
    written = "".join(f"{key}: {json.dumps(value)}\n" for key, value in task.items())
    for function in ("media", "text", "messages", "scored", "nothing"):
        written = written.replace(f'"!utils.{function}"', f"!function utils.{function}")
    (folder / f"{name}.yaml").write_text(written)


def document(identity: str, prompt: str, shown: Sequence[Path], form: str = "paths") -> dict[str, Any]:
    """A document whose answer is not scored."""
    paths = [str(path) for path in shown]
    return {
        "id": identity,
        "prompt": prompt,
        "question": prompt,
        "options": ["red", "blue"],
        "answer": 0,
        "shown": paths,
        "form": form,
    }
