import pytest

from components.interfaces import PictureLayout
from components.pictures.tile_check import check_tiles
from components.pictures.tile_layout import TileLayout


@pytest.mark.parametrize(
    ("layout", "size", "per_side", "message"),
    [
        (
            None,
            384,
            6,
            r"model\.picture_layout, which shows them, is not set: set it to components\.pictures\.tile_lay",
        ),
        (
            TileLayout(4, per_side=3),
            384,
            None,
            r"data\.pixels\.tiles is not set.*set data\.pixels\.tiles\.per_side to 3",
        ),
        (TileLayout(4), 384, 5, r"data\.pixels\.tiles\.per_side 5.* per_side 6: give both the same values"),
        (TileLayout(4), 224, 6, r"data\.pixels\.size is 224 .* tile_size 384"),
    ],
)
def test_data_and_layout_that_differ_are_refused(
    layout: PictureLayout | None, size: int, per_side: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_tiles(layout, size, per_side)


@pytest.mark.parametrize(
    ("layout", "size", "per_side"),
    [(None, 224, None), (None, None, None), (TileLayout(4), 384, 6), (TileLayout(4), None, 6)],
)
def test_data_and_layout_that_agree_are_accepted(
    layout: PictureLayout | None, size: int | None, per_side: int | None
) -> None:
    check_tiles(layout, size, per_side)
