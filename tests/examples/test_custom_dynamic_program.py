import pytest

from tests.examples.scripts import run


@pytest.mark.parametrize("strand", ["GGCAAUGCCUUCGGGUAUUGCAGC", "ac"])
def test_its_claims_hold_and_it_draws(tmp_path, strand):
    path = tmp_path / "made by the script" / "folding.png"
    output = run("custom_dynamic_program.py", "--strand", strand, "--out", path)
    assert [file.name for file in path.parent.iterdir()] == ["folding.png"]
    assert path.read_bytes().startswith(b"\x89PNG")
    for claim in (
        "check_structure on 7 bases: passed",
        f"foldings of {len(strand)} bases: ",
        "softmax: ",
        "sparsemap: ",
    ):
        assert claim in output
