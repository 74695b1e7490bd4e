from vae.tables import Table, write


def test_tables_are_markdown_that_lines_up(tmp_path):
    write(
        tmp_path / "t.md",
        {"First": Table(["", "kl"], [["q(z|x)", "1.5"], ["b", "-20.25"]]), "Second": Table(["n"], [])},
    )
    assert (tmp_path / "t.md").read_text().splitlines() == [
        "First",
        "",
        "|         |     kl |",
        "| ------- | -----: |",
        "| q(z\\|x) |    1.5 |",
        "| b       | -20.25 |",
        "",
        "Second",
        "",
        "| n   |",
        "| --- |",
    ]
