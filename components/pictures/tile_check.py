"""Checks that data and model agree on pictures in tiles."""

from components.interfaces import PictureLayout
from components.pictures.tile_layout import TileLayout

_OFF = "or set model.picture_layout and data.pixels.tiles to null to read pictures as videos of one frame"


def check_tiles(layout: PictureLayout | None, size: int | None, per_side: int | None) -> None:
    """Refuse tiles that the model does not show, and a layout without tiles.

    Args:
        layout: The model's ``picture_layout``.
        size: Height and width of a frame in pixels; None if unknown.
        per_side: Most tiles along a side of a picture; None if the data do not cut pictures.

    Raises:
        ValueError: Only one of data and model reads pictures in tiles, or with other sizes than the other.
    """
    if layout is None and per_side is None:
        return
    if layout is None:
        raise ValueError(
            f"data.pixels.tiles cuts pictures into tiles, but model.picture_layout, which shows them, is not set: set "
            f"it to {TileLayout.__module__}.{TileLayout.__name__}, {_OFF}"
        )
    if per_side is None:
        asked = layout.per_side if isinstance(layout, TileLayout) else "the layout's number"
        raise ValueError(
            "model.picture_layout shows pictures in tiles, but data.pixels.tiles is not set, so no picture is cut: set "
            f"data.pixels.tiles.per_side to {asked}, {_OFF}"
        )
    if not isinstance(layout, TileLayout):
        return
    if per_side != layout.per_side or size not in (None, layout.tile_size):
        raise ValueError(
            f"data.pixels.size is {size} and data.pixels.tiles.per_side {per_side}, but model.picture_layout has "
            f"tile_size {layout.tile_size} and per_side {layout.per_side}: give both the same values"
        )
