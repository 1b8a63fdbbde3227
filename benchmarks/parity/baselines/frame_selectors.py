"""Frames chosen by scores: AKS, BOLT, MDP3, the selector of TimeSearch-R, and the best ones of VideoITG."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, DeclinedError, exact_check
from components.interfaces import WholeVideo
from components.selection.adaptive_frames import AdaptiveFrames
from components.selection.best_frames import BestFrames
from components.selection.determinantal_frames import (
    DeterminantalFrames,
    SequentialDeterminantalFrames,
    frames_of_pieces,
    gaussian_kernel,
)
from components.selection.frames_by_share import FramesByShare


def compare_aks(case: RecordedCase) -> Sequence[Check]:
    """Compare frames chosen from recorded scores."""
    options = case.options
    every = slice(None, None, options.get("ratio", 1))
    scores = case.inputs["scores"][every]
    names = options.get("frames", list(range(len(case.inputs["scores"]))))[every]
    part = AdaptiveFrames(options["n"], options.get("t1", 0.8), options.get("all_depth", 5), as_published=True)
    chosen = part.frame_index(_video(scores)).tolist()
    return [exact_check("selected", [names[each] for each in chosen], case.outputs_json["selected"])]


def compare_bolt(case: RecordedCase) -> Sequence[Check]:
    """Compare frames drawn from recorded scores; a power below 0 means none in the original."""
    power = case.options.get("power", -1)
    part = FramesByShare(case.options["n"], power if power > 0 else 1.0, as_published=True)
    return [case.output_check("indices", part.frame_index(_video(case.inputs["scores"])))]


def compare_mdp3(case: RecordedCase) -> Sequence[Check]:
    """Compare the kernel and the chosen frames."""
    features = functional.normalize(torch.cat([case.inputs["text"], case.inputs["image"]]).double(), dim=1)
    kernel = gaussian_kernel(2.0 - 2.0 * features @ features.T)
    checks = [case.output_check("kernel", kernel.float())] if "kernel" in case.outputs else []
    if case.outputs_json is None or "selected" not in case.outputs_json:
        return checks
    number, known = case.options["n"], case.options.get("condition_size", 1)
    size = case.options.get("segment_size", -1)
    piece, fit = size if size > 0 else None, 2.0 / case.options.get("lambda", 0.2)
    if known == 1:
        part = SequentialDeterminantalFrames(number, piece, fit, as_published=True)
        chosen = part.frame_index(_video(features[1:] @ features[0], features[1:])).tolist()
    else:
        bonus = fit * kernel[0, 1:].log()
        chosen = frames_of_pieces(kernel[1:, 1:], bonus, number, piece, counts_again=True, known=known)
    return [*checks, exact_check("selected", chosen, case.outputs_json["selected"])]


def compare_timesearch(case: RecordedCase) -> Sequence[Check]:
    """Compare the chosen frames."""
    image, text = (functional.normalize(case.inputs[name].double(), dim=1) for name in ("image", "text"))
    theta = case.options.get("theta", -1)
    part = DeterminantalFrames(case.options["k"], None if theta < 0 else theta)
    chosen = part.frame_index(_video((image @ text.T)[:, 0], image)).tolist()
    return [exact_check("selected", chosen, case.outputs_json["selected"])]


def compare_videoitg(case: RecordedCase) -> Sequence[Check]:
    """Compare the best of recorded logits; a sigmoid does not change their order."""
    if "logits" not in case.inputs:
        raise DeclinedError(
            "it chooses which frames of a file are decoded; here the data settings do (data.sampling: fps, "
            "max_frames), and they begin with the first frame"
        )
    logits = case.inputs["logits"].flatten()
    names = case.options.get("frame_idx", list(range(len(logits))))
    chosen = BestFrames(case.options["k"]).frame_index(_video(logits)).tolist()
    return [exact_check("selected", [names[each] for each in chosen], case.outputs_json["selected"])]


def _video(scores: Tensor, features: Tensor | None = None) -> WholeVideo:
    return WholeVideo.of_length(len(scores))._replace(scores=scores, features=features)
