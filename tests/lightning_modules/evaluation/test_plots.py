import pytest

from lightning_modules.evaluation.plots import draw_accuracies


def test_accuracies_are_drawn_with_their_errors_in_the_given_order() -> None:
    entries = {length: {"value": value, "standard_error": 0.1} for length, value in [("2x", 0.5), ("10x", 0.25)]}
    figure = draw_accuracies({"memory": entries, "pooling": {"10x": entries["10x"]}})
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2x", "10x"]
    assert [container.lines[0].get_ydata().tolist() for container in axis.containers] == [[0.5, 0.25], [0.25]]
    # The bar of the first point of the first line, from 0.1 below to 0.1 above it.
    [bars] = axis.containers[0].lines[2]
    assert bars.get_segments()[0].tolist() == [[0, pytest.approx(0.4)], [0, pytest.approx(0.6)]]
    assert axis.containers[1].lines[0].get_xdata().tolist() == [1]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["memory", "pooling"]


def test_bars_reach_from_the_lower_to_the_upper_end_of_the_interval() -> None:
    figure = draw_accuracies({"": {"1x": {"value": 1.0, "low": 0.7, "high": 1.0}}})
    [bars] = figure.axes[0].containers[0].lines[2]
    assert bars.get_segments()[0].tolist() == [[0, pytest.approx(0.7)], [0, 1.0]]


def test_a_single_line_needs_no_legend() -> None:
    figure = draw_accuracies({"": {"1x": {"value": 0.5, "standard_error": 0.1}}})
    assert figure.axes[0].get_legend() is None
