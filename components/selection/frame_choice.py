"""Checks that the parts of a model that choose frames fit together."""

from components.interfaces import FrameEncoder, FrameResampling, FrameScorer, PictureLayout


def check_frame_choice(
    resampling: FrameResampling | None,
    scorer: FrameScorer | None,
    encoder: FrameEncoder,
    picture_layout: PictureLayout | None,
) -> None:
    """Check that frames are scored if and only if something chooses by the scores.

    Args:
        resampling: Chooses frames.
        scorer: Tells how well frames fit a question.
        encoder: Gives the joint embedding that the scorer reads.
        picture_layout: What is shown of a picture in tiles.

    Raises:
        ValueError: One of the two is missing, the encoder gives another joint embedding, or there is a picture layout,
            which shows the same of a picture to every question.
    """
    reads_scores = resampling is not None and resampling.reads_scores
    if reads_scores and scorer is None:
        raise ValueError(
            f"{type(resampling).__name__} chooses frames by how well they fit the question: set model.frame_scorer, "
            "such as components.selection.dual_encoder_scorer.DualEncoderScorer"
        )
    if scorer is None:
        return
    if not reads_scores:
        raise ValueError(
            "model.frame_scorer scores frames, but model.frame_resampling does not choose by the scores: set one that "
            "does, such as components.selection.best_frames.BestFrames, or leave frame_scorer out"
        )
    if encoder.joint_dim != scorer.joint_dim:
        raise ValueError(
            f"{type(scorer).__name__} reads a joint embedding of width {scorer.joint_dim}, but the encoder gives "
            f"{encoder.joint_dim or 'none'}: give both the path of the same dual model and set the encoder's joint to "
            "true (features that were cached without it are cached again, and joint_dim is set)"
        )
    if picture_layout is not None:
        raise ValueError(
            "a model that chooses frames by the question cannot show pictures in tiles: set picture_layout or "
            "frame_scorer to null"
        )
