import itertools

import numpy as np
import pytest

from apps.quickstart.needles import COLOURS, SHAPES, Needle, draw, paint

SIZE = 44


def needle(**changes: object) -> Needle:
    return Needle("circle", "red", frame=0, size=SIZE, top=3, left=5, degrees=0.0)._replace(**changes)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_most_of_a_shape_shows_its_own_colour(shape: str, colour: str) -> None:
    picture = draw(shape, COLOURS[colour], SIZE).astype(float)
    solid = picture[picture[..., 3] == 255, :3]
    distances = {name: np.linalg.norm(solid - rgb, axis=1) for name, rgb in COLOURS.items()}
    nearest = np.stack(list(distances.values())).argmin(0)
    assert (nearest == list(COLOURS).index(colour)).mean() > 0.5


@pytest.mark.parametrize(("one", "other"), itertools.combinations(SHAPES, 2))
def test_shapes_differ_however_they_are_turned(one: str, other: str) -> None:
    red = COLOURS["red"]
    for degrees in (-12, 0, 12):
        first, second = draw(one, red, SIZE, degrees)[..., 3] > 127, draw(other, red, SIZE)[..., 3] > 127
        assert (first & second).sum() / (first | second).sum() < 0.85


def test_colours_are_far_apart() -> None:
    for one, other in itertools.combinations(COLOURS.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) > 80


def test_painting_changes_only_the_needles_square() -> None:
    frame = np.full((80, 90, 3), 128, np.uint8)
    paint(frame, needle())
    changed = (frame != 128).any(-1)
    assert changed[3 : 3 + SIZE, 5 : 5 + SIZE].any()
    changed[3 : 3 + SIZE, 5 : 5 + SIZE] = False
    assert not changed.any()


@pytest.mark.parametrize("place", [{"top": -1}, {"left": -1}, {"top": 40}, {"left": 60}])
def test_needle_beyond_the_frame_is_refused(place: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="does not fit into a frame of 90 x 80"):
        paint(np.zeros((80, 90, 3), np.uint8), needle(**place))
