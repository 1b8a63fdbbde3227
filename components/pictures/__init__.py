"""Pictures in tiles: where they are cut, and how the language model sees them.

tile_grid.py    into which tiles a picture is cut; the data and the layout share this arithmetic
tile_layout.py  arranges the patches of the tiles as the visual tokens of the picture
"""
