import json
import re
import time
from pathlib import Path

import pytest

from benchmarks import gpu_suite
from benchmarks.gpu import report, steps


def names():
    return [step.name for stage in gpu_suite.stages(Path("unused")) for step in stage]


@pytest.fixture(autouse=True)
def _no_links(monkeypatch):
    monkeypatch.setattr(gpu_suite.keops, "variables", lambda folder: {})
    monkeypatch.setattr(gpu_suite, "_find_programs", lambda: None)


def test_without_a_gpu_every_step_is_marked(tmp_path, monkeypatch, capsys):
    """As it runs where there is none, but for what needs none, which takes seconds."""

    def run(step, limit_s, tell, stopped):
        assert "gpu" not in step.needs
        return {"no_gpu": "no GPU here", "seconds": 1.0, "exit_code": 0, "output": "done"}

    monkeypatch.setattr(gpu_suite, "run", run)
    out = tmp_path / "found" / "suite.json"
    assert gpu_suite.main(["--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["steps"]) == ["machine", *names()]
    measured = {name for name, result in found["steps"].items() if "not_measured" not in result}
    assert measured == {"machine", "what is built"}
    assert all(found["steps"][name].get("not_measured") == "no GPU here" for name in set(names()) - measured)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names())


def test_all_steps_are_listed(capsys):
    assert gpu_suite.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in names())


def test_with_a_gpu_everything_is_tried_until_the_time_is_over(tmp_path, monkeypatch, capsys):
    begun = []

    def run(step, limit_s, tell, stopped):
        begun.append((step.name, limit_s))
        tell({"so far": 1, "unfinished": True})
        if step.name == "MMD":
            suite_time[0] += 1e6
        return {"seconds": 1.0, "exit_code": 0, "output": CEILINGS if step.name == "ceilings" else "fine"}

    suite_time = [time.monotonic()]
    monkeypatch.setattr(gpu_suite.time, "monotonic", lambda: suite_time[0])
    monkeypatch.setattr(gpu_suite, "run", run)
    monkeypatch.setattr(gpu_suite, "why_not", lambda step, no_gpu: None)
    out = tmp_path / "suite.json"
    assert gpu_suite.main(["--out", str(out), "--minutes", "1"]) == 0
    found = json.loads(out.read_text())["steps"]
    before = names()[: names().index("MMD") + 1]
    assert {name for name, _ in begun} == {"machine", *before}
    assert all(limit_s <= 60 for _, limit_s in begun)
    assert found["torch.compile"]["not_measured"] == "the 1 minutes are over"
    assert "exponentials" in capsys.readouterr().out


CEILINGS = json.dumps(
    dict.fromkeys(
        ("fma_per_s", "exp2_per_s", "fma64_per_s", "copy_bytes_per_s", "clock_hz", "launch_s"), 1e12
    )
)


def test_a_report_of_everything():
    time_ms = {"min": 2.0, "median": 2.0, "max": 2.0}
    case = {
        "costs": {"ours": {"forward": [1e9, 1e6], "both": [2e9, 1e6]}},
        "errors": {"ours": {"value": 1e-6, "gradient": 1e-5}},
        "growth": {"ours": 3_000_000},
        "not_measured": {"KeOps 1D": "RuntimeError: no compiler"},
        "times_ms": {kind: {"ours": time_ms, "ours, CUDA graph": time_ms} for kind in ("forward", "both")},
        "same_bits": False,
    }
    found = {
        "ceilings": {"exit_code": 0, "output": CEILINGS},
        "joint": {"cases": {"joint n=5": case, "joint n=6": {"error": "RuntimeError: broken"}}},
        "counters": {"kernels": {"forward_joint<float>": {"instructions": 27.5, "budget": 27.4}}},
        "training steps": {
            "steps": {"shapes": {"ms": 0.5, "minutes": 1.9}, "x": {"error": "RuntimeError: no"}}
        },
        "training runs": {"runs": {"pinwheel": {"seconds": 3.0}, "fashion": {"not_measured": "no data"}}},
        "self-test": {"error": "ended after 60 s"},
        "GPU tests": {"output": "...\n880 skipped in 47.65s"},
    }
    text = report.show({"device": "a GPU", "steps": found})
    row = next(line for line in text.splitlines() if line.startswith("joint n=5") and "1e-06" in line)
    assert row.split()[-9:] == ["2", "2", "1", "1", "2", "1", "1e-06", "1e-05", "3"]
    assert re.search(r"KeOps +5 +not measured", text) and re.search(r"other bits +1 +0 +NO", text)
    for part in (
        "A REPEAT",
        "no compiler",
        "broken",
        "27.4",
        "1.9",
        "no data",
        "ended after 60 s",
        "not measured: 880 skipped",
    ):
        assert part in text


def test_the_module_of_each_step_exists():
    for stage in gpu_suite.stages(Path("unused")):
        for step in stage:
            if step.command[1:2] == ("-m",) and step.command[2] != "pytest":
                path = steps.ROOT / (step.command[2].replace(".", "/") + ".py")
                assert path.is_file()
