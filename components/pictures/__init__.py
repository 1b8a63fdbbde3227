"""Pictures in tiles: where they are cut, and what the language model sees of them.

tile_grid.py       into which tiles a picture is cut; the data and the layout share this arithmetic
tile_layout.py     arranges the patches of the tiles as the visual tokens of the picture
tile_check.py      checks that data and model agree
shown_pictures.py  shows these tokens in place of what the readers give of the picture
"""
