"""Copies shards to the local disks of a job's nodes before training starts."""

import re
from dataclasses import dataclass
from shlex import quote

COPY = """\
# Each node copies what it does not have yet. A copy gets its name when it is complete: jobs may share the folder.
export stage='
set -u
mkdir -p "$1" && cd "$1" || exit 1
shift
missing=()
needed=0
for file; do
    [[ -f $file ]] || { echo "there is no file $file to stage" >&2; exit 1; }
    name=${file##*/}
    size=$(stat -L -c %s "$file")
    [[ -f $name && ! $file -nt $name && $(stat -c %s "$name") == "$size" ]] && continue
    missing+=("$file")
    needed=$((needed + size))
done
free=$(df --output=avail -B1 . | tail -n 1)
if ((needed > free)); then
    echo "staging needs $needed bytes in $PWD, which has $free: stage fewer files, or to another disk" >&2
    exit 1
fi
for file in "${missing[@]}"; do
    part=.${file##*/}.$SLURM_JOB_ID.$SLURM_PROCID.part
    cp -p -- "$file" "$part" && mv -- "$part" "${file##*/}" || { rm -f -- "$part"; exit 1; }
done
echo "$(hostname): ${#missing[@]} of $# files copied to $PWD, $needed bytes"
'
"""

CALL = """\
files=(FILES)
twice=$(printf '%s\\n' "${files[@]##*/}" | sort | uniq -d)
if [[ -n $twice ]]; then
    echo "stage.files has several files of one name: $twice" >&2
    exit 1
fi
# The folder's variables are read on each node, where they may differ.
srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --label \\
    bash -c 'eval "folder=$0"; bash -c "$stage" stage "$folder" "$@"' FOLDER "${files[@]}" || exit 1
"""


@dataclass(frozen=True)
class Stage:
    """Files that are copied to the local disk of every node before training starts.

    Args:
        files: Files or patterns on the shared disk, such as ``/shared/shards/train-*.tar``.
        folder: Folder on the nodes' local disks. ``$NAME`` is a variable of the job: ``$SLURM_TMPDIR/shards``.

    Raises:
        ValueError: There are no files, or the folder is not an absolute path.
    """

    files: list[str]
    folder: str

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("stage.files names no file; give shards or patterns, or leave stage out")
        if not self.folder.startswith(("/", "$")):
            raise ValueError(f"stage.folder '{self.folder}' must be an absolute path or begin with a $VARIABLE")


def staging(stage: Stage) -> str:
    """Write the lines of the job script that copy files, with one task on every node.

    Args:
        stage: Files and folder.

    Returns:
        Lines of bash. The script exits with status 1 if a node fails, or a pattern matches no file.
    """
    files = " ".join(expanded_by_bash(file, patterns=True) for file in stage.files)
    return COPY + CALL.replace("FILES", files).replace("FOLDER", quote(expanded_by_bash(stage.folder)))


def expanded_by_bash(text: str, *, patterns: bool = False) -> str:
    """Quote a path for bash, except for ``$NAME`` and, with ``patterns``, ``*``, ``?`` and ``[]``.

    Args:
        text: Path or pattern.
        patterns: Whether bash expands patterns.

    Returns:
        One word of bash.
    """
    parts = re.split(r"(\$\{\w+\}|\$\w+|[*?\[\]])" if patterns else r"(\$\{\w+\}|\$\w+)", text)
    words = []
    for number, part in enumerate(parts):
        if number % 2 == 0:
            words.append(quote(part) if part else "")
        else:
            words.append(f'"{part}"' if part.startswith("$") else part)
    return "".join(words)
