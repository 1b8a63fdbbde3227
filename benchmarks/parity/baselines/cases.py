"""Finds the recordings of the field's methods in a folder, and compares what there is."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.parity.baselines import (
    chat_univi,
    fastvid,
    flash_vstream,
    flash_vstream_qwen,
    frame_selectors,
    holitom,
    llama_vid,
    llava_next,
    ma_lmm,
    merging,
    moviechat,
    pllava,
    prunevid,
    qformer,
    stc,
    timechat,
    videoscan,
)
from benchmarks.parity.baselines.recorded_case import RecordedCase, recorded_cases
from benchmarks.parity.comparison import CaseResult, Check, run_case

METHODS: dict[str, Callable[[RecordedCase], Sequence[Check]]] = {
    "aim_merge": merging.compare_aim,
    "aks": frame_selectors.compare_aks,
    "bolt_its": frame_selectors.compare_bolt,
    "dycoke_ttm": merging.compare_dycoke,
    "chat_univi": chat_univi.compare,
    "fastvid": fastvid.compare,
    "flash_vstream": flash_vstream.compare,
    "flash_vstream_qwen": flash_vstream_qwen.compare,
    "holitom": holitom.compare,
    "llama_vid": llama_vid.compare,
    "llava_next_pool": llava_next.compare,
    "longvlm": merging.compare_longvlm,
    "ma_lmm": ma_lmm.compare,
    "mdp3": frame_selectors.compare_mdp3,
    "moviechat": moviechat.compare,
    "pllava": pllava.compare,
    "qformer": qformer.compare,
    "stc": stc.compare,
    "timechat_dtd": timechat.compare,
    "prunevid": prunevid.compare,
    "timesearch_r_dpp": frame_selectors.compare_timesearch,
    "videochat_flash_tome": merging.compare_videochat_flash,
    "videoitg_topk": frame_selectors.compare_videoitg,
    "videoscan": videoscan.compare,
}
"""Name of a method's files -> compares one of its cases. A method is a file beside this one, and a line here."""

WITHOUT_PART: dict[str, str] = {
    "infllm": "it works inside the language model's cache",
    "rekv": "it works inside the language model's cache",
    "streaming_llm": "it works inside the language model's cache",
    "tstar": "it needs a detector of objects",
    "videollm_online": "it decides when to answer",
}
"""Methods of which there is no part here, with the reason."""


def baseline_cases(folder: Path, method: str) -> Iterator[CaseResult]:
    """Run every case of a method."""
    if method in WITHOUT_PART:
        reason = f"there is no part of it here: {WITHOUT_PART[method]}"
        yield from (CaseResult(case.name, (), declined=reason) for case in recorded_cases(folder, method))
        return
    for case in recorded_cases(folder, method):
        if case.compare.startswith("informative"):
            yield CaseResult(case.name, (), declined="its numbers hang on rounding, so it is informative only")
        else:
            yield run_case(case.name, _compare, method, case)


@torch.no_grad()
def _compare(method: str, case: RecordedCase) -> Sequence[Check]:
    return METHODS[method](case)
