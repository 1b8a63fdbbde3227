"""Shows a comparison of models as a table in Markdown or LaTeX."""

import math
from collections.abc import Sequence

from membridge.evaluation.comparison import Comparison, ScoredRun
from membridge.evaluation.shares import ScoredQuestion, Share, share_of

_NOTE = (
    "Differences with their 95 % interval by paired bootstrap over videos (10,000 resamples); p by McNemar's exact "
    "test, corrected by Holm's method over all pairs."
)
_LATEX = str.maketrans(
    {each: f"\\{each}" for each in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def to_markdown(runs: Sequence[ScoredRun], comparisons: Sequence[Comparison]) -> str:
    """Two tables: a row a model, and a row a pair."""
    scores = [["model", "score", "95 % interval", "standard error", "questions"], ["---"] * 5]
    scores += [[run.name.replace("|", "\\|"), *_share_cells(run)] for run in runs]
    pairs = [
        ["first", "second", "difference", "95 % interval", "only first / only second", "p", "p (Holm)"],
        ["---"] * 7,
    ]
    pairs += [
        [each.first.replace("|", "\\|"), each.second.replace("|", "\\|"), *_pair_cells(each)] for each in comparisons
    ]
    tables = ["\n".join("| " + " | ".join(row) + " |" for row in table) for table in (scores, pairs)]
    about = ", ".join(f"{name}: {value}" for name, value in runs[0].about.items())
    return f"{about}\n\n{tables[0]}\n\n{_NOTE}\n\n{tables[1]}\n"


def to_latex(runs: Sequence[ScoredRun], comparisons: Sequence[Comparison]) -> str:
    """The same two tables for the booktabs package."""
    scores = ["Model & Score & 95\\,\\% interval & Standard error & Questions"]
    scores += [" & ".join([run.name.translate(_LATEX), *_share_cells(run)]) for run in runs]
    pairs = ["First & Second & Difference & 95\\,\\% interval & Only first / second & $p$ & $p$ (Holm)"]
    pairs += [
        " & ".join([each.first.translate(_LATEX), each.second.translate(_LATEX), *_pair_cells(each)])
        for each in comparisons
    ]
    return _tabular(scores, "lrrrr") + "\n" + _tabular(pairs, "llrrrrr")


def share_of_run(run: ScoredRun) -> Share:
    """The mean score of a run with its uncertainty."""
    return share_of([ScoredQuestion(score, run.clusters[identity]) for identity, score in run.scores.items()])


def _share_cells(run: ScoredRun) -> list[str]:
    share = share_of_run(run)
    low, high = share.interval
    error = "-" if math.isnan(share.standard_error) else f"{share.standard_error:.4f}"
    return [f"{share.value:.4f}", f"[{low:.4f}, {high:.4f}]", error, str(share.questions)]


def _pair_cells(pair: Comparison) -> list[str]:
    low, high = pair.interval
    p_values = ["-" if value is None else f"{value:.4g}" for value in (pair.p_value, pair.corrected_p_value)]
    counts = f"{pair.only_first} / {pair.only_second}"
    return [f"{pair.difference:+.4f}", f"[{low:+.4f}, {high:+.4f}]", counts, *p_values]


def _tabular(rows: Sequence[str], columns: str) -> str:
    header, *others = [f"{row} \\\\" for row in rows]
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", header, "\\midrule", *others, "\\bottomrule"]
    return "\n".join([*lines, "\\end{tabular}", ""])
