from pathlib import Path

import pytest

from lightning_modules.console.settings_errors import explain

MESSAGE = "Problem with given class_path 'torch.nn.Linear': Option 'groups' is not accepted"


@pytest.mark.parametrize(
    ("text", "names_the_file"),
    [("model: {groups: 7}", True), ("model: {width: 7} # one token for each of the groups", False)],
)
def test_an_option_of_the_command_line_is_not_blamed_on_a_comment(
    tmp_path: Path, text: str, names_the_file: bool
) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text(text)
    assert (str(file) in explain(MESSAGE, [], [str(file)])) == names_the_file
