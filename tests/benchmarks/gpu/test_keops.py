from benchmarks.gpu import keops


def test_headers_and_libraries_of_several_places_in_one(tmp_path, monkeypatch):
    toolkit, packages = tmp_path / "toolkit", tmp_path / "packages"
    for path in (
        toolkit / "include" / "cuda.h",
        toolkit / "include" / "crt" / "host.h",
        packages / "include" / "cuda.h",
        packages / "include" / "nvrtc.h",
        packages / "lib" / "libnvrtc.so.13",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(keops, "homes", lambda: iter([toolkit, packages, tmp_path / "not there"]))
    monkeypatch.setattr(keops, "DRIVER_FOLDERS", ())
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
    for _ in range(2):  # a second time finds its links
        found = keops.variables(tmp_path / "made")
    include, lib = (tmp_path / "made" / "cuda" / name for name in ("include", "lib"))
    assert found["CUDA_PATH"] == str(include.parent) and found["LD_LIBRARY_PATH"] == f"{lib}:/mine"
    assert (include / "cuda.h").resolve() == toolkit / "include" / "cuda.h"
    assert (include / "nvrtc.h").exists() and (include / "crt" / "host.h").exists()
    assert (lib / "libnvrtc.so").resolve() == (lib / "libnvrtc.so.13").resolve()
