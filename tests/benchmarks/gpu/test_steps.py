import sys
import time

import pytest

from benchmarks.gpu.steps import EXIT_NOT_MEASURED, OUT, Step, run, why_not

WRITE = "from pathlib import Path; import sys, time; Path(sys.argv[1]).write_text('{\"a\": 1}'); "


def python(code, *arguments, limit_s=20):
    reports = []
    return run(Step("x", limit_s, (sys.executable, "-c", code, *arguments)), limit_s, reports.append), reports


def test_what_a_step_wrote_is_its_result():
    result, _ = python(WRITE + "print('hello')", OUT)
    assert (result["a"], result["exit_code"], result["output"]) == (1, 0, "hello")
    assert "error" not in result and 0 < result["seconds"] < 20


def test_a_step_that_takes_too_long_keeps_what_it_found(tmp_path):
    late = tmp_path / "late"
    start_another = f"import subprocess; subprocess.Popen(['sh', '-c', 'sleep 2; touch {late}']); "
    code = WRITE + start_another + "print('so far', flush=True); time.sleep(60)"
    result, reports = python(code, OUT, limit_s=1.5)
    assert result["error"].startswith("ended after") and result["a"] == 1 and result["output"] == "so far"
    assert reports[0] == {"a": 1, "unfinished": True}
    time.sleep(1)
    assert not late.exists()  # what it started is gone with it


def test_a_step_is_ended_when_the_suite_is(tmp_path):
    begun = tmp_path / "begun"
    code = f"from pathlib import Path; import time; Path({str(begun)!r}).touch(); time.sleep(60)"
    result = run(Step("x", 30, (sys.executable, "-c", code)), 30, lambda partial: None, begun.exists)
    assert result["error"] == "stopped" and result["seconds"] < 20


@pytest.mark.parametrize(("status", "key"), [(1, "error"), (EXIT_NOT_MEASURED, "not_measured")])
def test_the_last_line_says_why(status, key):
    result, _ = python(f"print('first'); print('because'); raise SystemExit({status})")
    assert result[key] == "because" and result["exit_code"] == status


def test_a_program_that_is_not_there():
    result = run(Step("x", 1, ("/no/such/program",)), 1, lambda partial: None)
    assert "/no/such/program" in result["not_measured"]


def test_needs():
    assert why_not(Step("x", 1, (), ("gpu", ".json", "sh")), None) is None
    assert why_not(Step("x", 1, (), ("gpu",)), "no GPU") == "no GPU"
    assert (
        why_not(Step("x", 1, (), (".no_such_package",)), None)
        == "the package no_such_package is not installed"
    )
    assert why_not(Step("x", 1, (), ("no-such-program",)), None) == "no-such-program was not found"
