import pytest

from tests.examples.scripts import run


@pytest.mark.parametrize(("rows", "cols"), [(5, 6), (2, 3)])
def test_its_claims_hold_and_it_draws(tmp_path, rows, cols):
    path = tmp_path / "made by the script" / "paths.png"
    output = run("custom_structure.py", "--rows", rows, "--cols", cols, "--out", path)
    assert [file.name for file in path.parent.iterdir()] == ["paths.png"]
    assert path.read_bytes().startswith(b"\x89PNG")
    for claim in ("check_structure: passed", "enumeration: ", "top-k: ", "sparsemap: ", "gradient ", "learning: "):
        assert claim in output


def test_help_explains_every_option():
    output = run("custom_structure.py", "--help")
    for option in ("--rows", "--cols", "--seed", "--out"):
        assert option in output
