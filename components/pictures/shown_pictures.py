"""Shows pictures in tiles to the language model, in place of what the readers give of them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from components.interfaces import FrameEncoder, PictureLayout, Projector, TokenPlaces, VisualTokens
from components.newline import Newline
from components.packed_frames import PackedVideos
from components.streams import dtype_of


def check_layout(layout: PictureLayout, encoder: FrameEncoder) -> None:
    """Refuse a layout that cannot work.

    Raises:
        ValueError: The layout has weights, or the encoder would read the tiles of a picture as frames of a video.
    """
    if next(layout.parameters(), None) is not None:
        raise ValueError(
            f"model.picture_layout {type(layout).__name__} has weights, which ranks with unequal numbers of pictures "
            "would gather unequally often: put them into model.projector or model.newline"
        )
    if encoder.window_frames != 1:
        raise ValueError(
            f"model.picture_layout shows a picture in tiles, but {type(encoder).__name__} reads several frames "
            "together, so it would read the tiles as a video: choose an encoder of single frames, or set "
            "model.picture_layout and data.pixels.tiles to null"
        )


class PictureTokens(NamedTuple):
    """What the language model sees of a batch's pictures in tiles."""

    of_video: Mapping[int, Tensor]  # number of the picture among the batch's videos -> [q, E]
    unused: Tensor  # [] zero; keeps projector and newline in the graph of a batch without pictures


def picture_tokens(
    patches: Tensor, videos: PackedVideos, layout: PictureLayout, newline: Newline, projector: Projector | None
) -> PictureTokens:
    """Arrange the pictures in tiles.

    Projector and newline are called once, with pictures or without: their calls are equal on all ranks then.

    Args:
        patches: The encoder's patches of the packed frames, ``[F, N, D]``.
        videos: The packed frames, with the sizes of the pictures.
        layout: Arranges the patches of one picture.
        newline: The learned vector that ends a line.
        projector: Maps the patches to the language model's width; None if they have it.
    """
    sizes = [(height, width) for height, width in videos.picture_sizes.tolist()]
    pictures = [video for video, (height, width) in enumerate(sizes) if height > 0 and width > 0]
    ends = videos.frame_counts.cumsum(0).tolist()
    counts = videos.frame_counts.tolist()
    tiles = [frame for video in pictures for frame in range(ends[video] - counts[video], ends[video])]
    chosen = torch.tensor(tiles or [0]).to(patches.device, non_blocking=True)
    projected = patches[chosen].to(dtype_of(newline, patches))
    if projector is not None:
        projected = projector(patches[chosen].to(dtype_of(projector, patches)))
    vector = newline().to(projected.dtype)
    of_picture = projected.split([counts[video] for video in pictures] or [1])
    # Without pictures there is one part, of the frame that stands in for them.
    # Not as a module: ZeRO-3 counts calls of modules, also of those without weights, and ranks have unequal pictures.
    arrange = layout.forward
    shown = {video: arrange(own, sizes[video], vector) for video, own in zip(pictures, of_picture, strict=False)}
    unused = 0.0 * (projected.float().sum() + vector.float().sum())
    return PictureTokens(shown, unused)


def with_pictures(visual: VisualTokens, pictures: Mapping[int, Tensor], video_index: Tensor) -> VisualTokens:
    """Replace the rows of pictures in tiles.

    Args:
        visual: What the readers give, with the words of the visual prompt.
        pictures: What to show instead, by the picture's number among the batch's videos.
        video_index: See ``TextInputs``.

    Returns:
        Rows as before; they are longer if a picture has more tokens than any row had.
    """
    if not pictures:
        return visual
    num_rows, longest, _ = visual.tokens.shape
    new = _pictures_by_row(pictures, visual.row_index, video_index)
    longest = max([longest, *(len(tokens) for tokens in new.values())])  # no conversation may show any of them
    spare = longest - visual.tokens.shape[1]
    tokens = functional.pad(visual.tokens, (0, 0, 0, spare))
    mask = functional.pad(visual.mask, (0, spare))
    rows = [_padded(new[row].to(tokens.dtype), longest) if row in new else tokens[row] for row in range(num_rows)]
    masks = [torch.arange(longest) < len(new[row]) if row in new else mask[row] for row in range(num_rows)]
    places = visual.places
    if places is not None:
        is_picture = torch.tensor([row in new for row in range(num_rows)])[:, None]
        padded = (functional.pad(each, (0, spare), value=-1) for each in places)
        places = TokenPlaces(*(each.masked_fill(is_picture.to(each.device, non_blocking=True), -1) for each in padded))
    joined = torch.stack([each.to(mask.device, non_blocking=True) for each in masks])
    return VisualTokens(torch.stack(rows), joined, visual.row_index, places)


def _pictures_by_row(
    pictures: Mapping[int, Tensor], row_index: Tensor | None, video_index: Tensor
) -> Mapping[int, Tensor]:
    """What to show in which row of the visual tokens."""
    if row_index is None:
        return pictures
    shown = zip(row_index.flatten().tolist(), video_index.flatten().tolist(), strict=True)
    return {row: pictures[video] for row, video in shown if video in pictures}


def _padded(tokens: Tensor, length: int) -> Tensor:
    return functional.pad(tokens, (0, 0, 0, length - len(tokens)))
