"""The gallery's script draws what its page shows."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_script_draws_every_picture_of_the_page(tmp_path):
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    gallery.main(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    page = (DOCS / "gallery.md").read_text()
    assert drawn == {path.name for path in (DOCS / "gallery").iterdir()}
    assert all(f"](gallery/{name})" in page and f"`{name.removesuffix('.png')}`" in page for name in drawn)
