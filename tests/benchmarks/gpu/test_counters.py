import torch

from benchmarks.gpu import counters

HEADER = (
    '"ID","Kernel Name","gpu__time_duration.sum","smsp__inst_executed.sum","launch__registers_per_thread"'
)
NCU = f"""==PROF== Connected to process 1
==PROF== Profiling "forward_joint" - 0: 0%....100% - 10 passes
{HEADER}
"","","nsecond","inst","register/thread"
"0","void pykernels::forward_joint<float, (int)10, (int)4, (int)1, (bool)0>(X)","1,000,000","7,680,000","104"
"1","void pykernels::forward_joint<float, (int)10, (int)4, (int)1, (bool)0>(X)","2,000,000","210,432,000","104"
"2","void pykernels::mmd::sum_over_pairs<float, 2, true, false>(pykernels::Y)","5,000,000","n/a","80"
==PROF== Disconnected
"""


def test_counts_are_read_by_kernel_and_for_a_unit():
    launches = counters.read(NCU)
    assert len(launches) == 3 and launches[2]["instructions"] is None
    found = counters.summary(launches)
    assert list(found) == ["forward_joint<float, 10, 4, 1, false>", "sum_over_pairs<float, 2, true, false>"]
    joint = found["forward_joint<float, 10, 4, 1, false>"]
    assert joint["instructions"] == 32 * 210_432_000 / (60_000 * 4096)  # of the longest launch
    assert (joint["ms"], joint["registers"], joint["budget"]) == (2.0, 104.0, 27.4)


def test_no_table_is_no_launch():
    assert counters.read("==ERROR== Failed to find metric x\n") == []


def test_the_calls_run(monkeypatch):
    for name, size in {"ROWS": 5, "COMPONENTS": 7, "POINTS": 20}.items():
        monkeypatch.setattr(counters, name, size)
    made = [call() for call in counters.calls(torch.device("cpu"))]
    assert len(made) == 10
