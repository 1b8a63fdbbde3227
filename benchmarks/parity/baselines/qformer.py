"""The Q-Former of BLIP-2, frame by frame."""

from collections.abc import Sequence

from torch import nn

from benchmarks.parity.baselines.recorded_case import RecordedCase
from benchmarks.parity.comparison import Check, DeclinedError
from components.readers.readouts.frame_queries import FrameQueries, read_frames


def compare(case: RecordedCase) -> Sequence[Check]:
    """Compare what the queries find in every frame of one video."""
    if any("text" in name or "ids" in name for name in case.inputs):
        raise DeclinedError("it reads words through the Q-Former; FrameQueries reads none")
    options, inputs = case.options, case.inputs
    frames = inputs["frames"][0]
    readout = FrameQueries(
        frames.shape[2],
        1,
        num_queries=options["nq"],
        width=options["hidden"],
        num_layers=options["layers"],
        num_heads=options["heads"],
        frequency=options["freq"],
    )
    qformer = readout.qformer
    inner = len(inputs["w.encoder.layer.0.intermediate_query.dense.bias"])
    for layer in qformer.encoder.layer:  # the recorded one is narrower inside
        layer.intermediate_query.dense = nn.Linear(options["hidden"], inner)
        layer.output_query.dense = nn.Linear(inner, options["hidden"])
    # transformers gives the norm of the input another name, and has no parts for words here.
    names = {_our_name(name): name for name in inputs if name.startswith("w.")}
    wanted = qformer.state_dict()
    qformer.load_state_dict({ours: inputs[names[ours]] for ours in wanted})
    found = read_frames(qformer.eval(), inputs["query_tokens"][0], frames)
    return [case.output_check("tokens", found.flatten(0, 1)[None])]


def _our_name(name: str) -> str:
    plain = name.removeprefix("w.").replace("embeddings.LayerNorm", "layernorm")
    return plain.replace("attention.self.", "attention.attention.")
