import json
import pickle
import zipfile

import numpy
import pytest
import torch

from vae.data import shapes as module
from vae.data import shapes_files
from vae.data.factors import Factors
from vae.data.shapes import PUBLISHED, Shapes, cache_folder, shapes, unpack
from vae.run import RunError

SMALL = Factors(module.ALL.names, (3, 2, 3, 4, 5))


@pytest.fixture(autouse=True)
def _small_and_elsewhere(tmp_path, monkeypatch):
    """360 of the images, and a cache that is not the user's."""
    monkeypatch.setattr(module, "ALL", SMALL)
    monkeypatch.setattr(shapes_files, "ROWS", 100)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VAE_DATA", raising=False)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


def pixels(n=SMALL.count):
    return (torch.rand(n, 64, 64, generator=torch.Generator().manual_seed(1)) < 0.2).numpy().astype("uint8")


def write_published(folder, *, imgs=None, classes=None, compress=True):
    """A file in the format of the published one, with metadata that must not be unpickled. Returns its path."""
    folder.mkdir(exist_ok=True, parents=True)
    if classes is None:
        classes = torch.nn.functional.pad(SMALL.levels(torch.arange(SMALL.count)), (1, 0)).numpy()
    arrays = {
        "metadata": numpy.array(Bomb(), dtype=object),
        "imgs": pixels() if imgs is None else imgs,
        "latents_classes": classes,
        "latents_values": classes.astype(float),
    }
    save = numpy.savez_compressed if compress else numpy.savez
    save(folder / PUBLISHED, **arrays)
    return folder / PUBLISHED


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("layout", ["grey", "three channels", "0 and 255"])
def test_the_published_file_is_read_in_any_layout_and_never_unpickled(tmp_path, compress, layout):
    imgs = pixels()
    expected = torch.from_numpy(imgs).float().unsqueeze(1)
    if layout == "three channels":
        imgs = numpy.repeat(imgs[:, None], 3, axis=1)
    if layout == "0 and 255":
        imgs = 255 * imgs
    path = write_published(tmp_path / "data", imgs=imgs, compress=compress)
    with pytest.raises(ValueError, match="allow_pickle"):
        numpy.load(path)["metadata"]
    packed, factors = shapes(str(tmp_path / "data"))
    assert factors == SMALL
    assert packed.shape == (SMALL.count, 512) and packed.dtype == torch.uint8
    assert unpack(packed).equal(expected)


def test_the_published_file_is_packed_once(tmp_path, monkeypatch):
    write_published(tmp_path)
    first = shapes(str(tmp_path)).packed.clone()
    monkeypatch.setattr(module, "read_published", lambda *args: pytest.fail("read again"))
    assert shapes(str(tmp_path)).packed.equal(first)


def test_another_published_file_is_packed_anew(tmp_path):
    write_published(tmp_path)
    shapes(str(tmp_path))
    write_published(tmp_path, imgs=0 * pixels())
    assert not shapes(str(tmp_path)).packed.any()


def test_without_the_file_an_equivalent_set_is_drawn_once_and_mapped(tmp_path, monkeypatch):
    packed, factors = shapes()
    assert factors == SMALL and packed.shape == (SMALL.count, 512)
    (cache,) = cache_folder().iterdir()
    assert cache.parent == tmp_path / "cache" / "vae-kernels"
    assert cache.stat().st_size < 512 * SMALL.count + 100
    monkeypatch.setattr(module, "render", lambda *args: pytest.fail("drawn again"))
    assert shapes().packed.equal(packed)
    packed[0] = 1  # changes the copy in memory only
    assert not shapes().packed.equal(packed)


@pytest.mark.parametrize("published", [False, True])
def test_a_subset_is_the_strided_part_of_the_whole(tmp_path, published):
    if published:
        write_published(tmp_path)
    whole = shapes(str(tmp_path)).packed.view(*SMALL.sizes, 512)
    packed, factors = shapes(str(tmp_path), (2, 1, 3, 2, 2))
    assert factors == Factors(SMALL.names, (2, 2, 1, 2, 3))
    assert packed.equal(whole[::2, :, ::3, ::2, ::2].reshape(-1, 512))


def test_a_subset_that_is_drawn_leaves_no_file(tmp_path):
    shapes("", (1, 1, 1, 2, 2))
    assert not cache_folder().exists()


def test_the_cache_lies_beside_the_data_where_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "named").mkdir()
    shapes(str(tmp_path / "named"))
    assert [path.name for path in (tmp_path / "named").iterdir()] == ["shapes-rendered.bits"]
    monkeypatch.setattr(module.os, "access", lambda *args: False)
    (tmp_path / "fixed").mkdir()
    monkeypatch.setenv("VAE_DATA", str(tmp_path / "fixed"))
    shapes()
    assert not list((tmp_path / "fixed").iterdir()) and len(list(cache_folder().iterdir())) == 1


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda c: c[:1000] + bytes([c[1000] ^ 4]) + c[1001:], "its checksum does not match"),
        (lambda c: c[:-1], "."),
        (lambda c: c[:1000], "."),
        (lambda c: b"", "."),
        (lambda c: c[: 512 * SMALL.count] + b"7", "."),
    ],
    ids=["bit", "byte", "half", "empty", "trailer"],
)
def test_a_damaged_cache_is_refused_by_name(damage, why):
    shapes()
    (cache,) = cache_folder().iterdir()
    cache.write_bytes(damage(cache.read_bytes()))
    with pytest.raises(RunError, match=rf"shapes-rendered\.bits is damaged .*{why}.*delete it"):
        shapes()


def test_a_cache_of_another_renderer_is_not_taken(monkeypatch):
    before = shapes().packed.clone()
    monkeypatch.setattr(module, "RENDERER", "rendered, 0")
    monkeypatch.setattr(module, "render", lambda levels: [numpy.zeros((SMALL.count, 512), "uint8")])
    after = shapes().packed
    assert before.any() and not after.any()


def test_a_crash_while_drawing_leaves_no_file(monkeypatch):
    original = module.render

    def crash(levels):
        yield next(original(levels))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "render", crash)
        shapes()
    assert not list(cache_folder().iterdir())
    assert len(shapes().packed) == SMALL.count


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(RunError, match="cannot be made .*--data"):
        shapes()


def rewrite(path, change):
    """The archive with its members changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def shorten(members):
    members["imgs.npy"] = members["imgs.npy"][:-1]


def lengthen(members):
    members["imgs.npy"] += b"\0"


def pickled(members):
    members["latents_classes.npy"] = members["metadata.npy"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (shorten, "ends too early"),
        (lengthen, "more bytes than its header says"),
        (pickled, "allow_pickle"),
        (lambda members: members.pop("imgs.npy"), "no item named 'imgs.npy'"),
        (lambda members: members.update({"imgs.npy": pickle.dumps(0)}), "magic"),
    ],
)
def test_a_damaged_archive_is_refused_by_name(tmp_path, change, why):
    rewrite(write_published(tmp_path), change)
    with pytest.raises(RunError, match=rf"{PUBLISHED} is damaged .*{why}.*restore a copy"):
        shapes(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [PUBLISHED]


def test_a_flipped_bit_of_an_archive_is_noticed(tmp_path):
    path = write_published(tmp_path, compress=False)
    content = bytearray(path.read_bytes())
    content[content.index(b"imgs.npy") + 100_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        shapes(str(tmp_path))


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"imgs": pixels()[:, :63]}, r"uint8 \(360, 63, 64\)"),
        ({"imgs": pixels()[1:]}, r"uint8 \(359, 64, 64\)"),
        ({"imgs": pixels().astype("float32")}, "float32"),
        ({"imgs": 7 * pixels()}, "holds a 7, not only 0 and 1"),
        ({"classes": numpy.zeros((360, 6), int)}, "not in the order"),
        ({"classes": numpy.zeros(360, int)}, "indices"),
    ],
)
def test_an_archive_of_something_else_is_refused(tmp_path, arrays, why):
    write_published(tmp_path, **arrays)
    with pytest.raises(RunError, match=rf"is damaged \(.*{why}"):
        shapes(str(tmp_path))


@pytest.mark.parametrize("steps", [(1, 1, 1, 1), (1, 0, 1, 1, 1)])
def test_steps_must_be_positive_and_five(steps):
    with pytest.raises(RunError, match="--subset .* is not one positive step for each of"):
        shapes("", steps)


def test_a_subset_of_one_image_is_refused():
    with pytest.raises(RunError, match="--subset 3 2 3 4 5 leaves one image only"):
        shapes("", SMALL.sizes)


def test_the_highest_bit_is_the_first_pixel():
    packed = torch.zeros(2, 512, dtype=torch.uint8)
    packed[0, 0], packed[1, 8] = 0b10000001, 0b01000000
    images = unpack(packed)
    assert images.shape == (2, 1, 64, 64) and images.dtype == torch.float32
    assert images.nonzero().tolist() == [[0, 0, 0, 0], [0, 0, 0, 7], [1, 0, 1, 1]]


def test_two_shapes_are_a_tuple_of_images_and_factors():
    assert Shapes(*shapes()).factors.count == len(shapes().packed)
    (cache,) = cache_folder().iterdir()
    assert json.loads(cache.read_bytes()[512 * SMALL.count :])["source"] == module.RENDERER
