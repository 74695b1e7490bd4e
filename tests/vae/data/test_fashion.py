import pytest
import torch

from tests.vae.idx_files import idx_bytes, write_fashion
from vae.data import fashion
from vae.data.fashion import PACKAGE, fashion_mnist, unit_interval
from vae.run import RunError


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("split", "n"), [("train", 60), ("t10k", 30)])
def test_a_split_is_read_and_resized(tmp_path, compress, split, n):
    originals = write_fashion(tmp_path, compress=compress)[split]
    images, labels = fashion_mnist(split, str(tmp_path))
    assert images.shape == (n, 1, 32, 32) and images.dtype == torch.uint8
    assert labels.tolist() == [i % 10 for i in range(n)]
    resized = torch.nn.functional.interpolate(originals[:, None].float(), size=(32, 32), mode="bilinear")
    assert (images.float() - resized).abs().max() <= 1


def test_the_variable_comes_before_the_package_and_data_before_both(tmp_path, monkeypatch):
    for name in ("data", "variable", "package"):
        write_fashion(tmp_path / name, train=len(name))
    monkeypatch.setattr(fashion, "PACKAGE", tmp_path / "package")
    monkeypatch.delenv("VAE_DATA", raising=False)
    assert len(fashion_mnist()[0]) == len("package")
    monkeypatch.setenv("VAE_DATA", str(tmp_path / "nowhere"))
    assert len(fashion_mnist()[0]) == len("package")
    monkeypatch.setenv("VAE_DATA", str(tmp_path / "variable"))
    assert len(fashion_mnist()[0]) == len("variable")
    assert len(fashion_mnist("train", str(tmp_path / "data"))[0]) == len("data")


def test_a_missing_file_says_where_to_get_it_and_how_to_name_it(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    message = r"train-labels-idx1-ubyte or .*\.gz is not in .*dataset-fashion-mnist.*--data or VAE_DATA"
    with pytest.raises(RunError, match=message):
        fashion_mnist("train", str(tmp_path))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:7],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:2] + b"\x0d" + content[3:],
        lambda content: b"\x80\x04" + content[2:],
    ],
    ids=["empty", "header", "half", "byte", "dtype", "pickle"],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, compress, damage):
    write_fashion(tmp_path, compress=compress)
    path = tmp_path / ("train-images-idx3-ubyte" + (".gz" if compress else ""))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"train-images-idx3-ubyte.* is damaged .*restore a copy"):
        fashion_mnist("train", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", torch.zeros(60, 28, 27), "not that of nx28x28 bytes"),
        ("train-images-idx3-ubyte", torch.zeros(60, 784), "not that of nx28x28 bytes"),
        ("train-images-idx3-ubyte", torch.zeros(0, 28, 28), "0 bytes of data"),
        ("train-images-idx3-ubyte", torch.zeros(59, 28, 28), "59 images, but .* 60 labels"),
        ("train-labels-idx1-ubyte", torch.full((60,), 10), "a label 10, they are 0 to 9"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, name, content, message):
    write_fashion(tmp_path, compress=False)
    (tmp_path / name).write_bytes(idx_bytes(content.byte()))
    with pytest.raises(RunError, match=message):
        fashion_mnist("train", str(tmp_path))


def test_a_flipped_bit_of_an_archive_is_noticed(tmp_path):
    write_fashion(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        fashion_mnist("t10k", str(tmp_path))


def test_bytes_become_floats_of_the_unit_interval():
    assert unit_interval(torch.tensor([0, 51, 255], dtype=torch.uint8)).equal(torch.tensor([0.0, 0.2, 1.0]))


@pytest.mark.skipif(not PACKAGE.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_files(monkeypatch):
    monkeypatch.delenv("VAE_DATA", raising=False)
    for split, n in (("train", 60_000), ("t10k", 10_000)):
        images, labels = fashion_mnist(split)
        assert images.shape == (n, 1, 32, 32)
        assert labels.bincount().tolist() == [n // 10] * 10
