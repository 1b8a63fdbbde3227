"""Plans and draws the needles of the haystack test: a model must find short events in long made-up videos.

``haystack_benchmark.py`` has the settings and the questions, ``video_plan.py`` the random choices of one video, and
``needle_kinds.py`` draws. ``membridge.haystack_test`` makes the frames and asks a model.
"""
