from benchmarks.gpu import goals

CEILINGS = {"fma_per_s": 1e12, "exp2_per_s": 1e12}


def case(costs_s=1e-3, **times_ms):
    times = {name.replace("_", " "): {"min": time} for name, time in times_ms.items()}
    cost = [1e12 * costs_s, 0]
    return {
        "costs": {"ours": {"forward": cost, "both": cost}},
        "times_ms": {"forward": times, "both": times},
        "same_bits": True,
    }


def test_goals_met_and_missed_and_not_measured():
    steps = {
        "joint": {"cases": {goals.LARGE: case(ours=1.2, chunked=30.0), "joint n=4": case(1e-6, ours=1.0)}},
        "KeOps": {"cases": {goals.LARGE: case(ours=1.0, KeOps_1D=9.0, KeOps_2D=4.0)}},
        "MMD": {"cases": {goals.MMD_MS[0]: case(ours=0.4, direct=100.0)}},
        "failed": {"cases": {goals.TALL: {"error": "out of memory"}}, "error": "x"},
    }
    found = {what: (value, met) for what, value, _, met in goals.rows(steps, CEILINGS)}
    assert found[f"{goals.LARGE}: times as fast as KeOps"] == (4.0, "NO")  # as the faster of the two
    assert found[f"{goals.LARGE}: times as fast as chunked"] == (25.0, "yes")
    assert found[f"{goals.TALL}: times as fast as KeOps"] == ("", "not measured")
    assert found[f"{goals.MMD_MS[0]}: ms, with the gradient"] == (0.4, "yes")
    assert found["MMD n=60000 D=50: times as fast as direct"] == (250.0, "NO")
    assert found[f"{goals.LARGE}: value, over the floor"] == (1.0, "yes")
    assert not any(what.startswith("joint n=4") for what in found)
    assert next(goals.rows({}, None))[3] == "not measured"


def test_titles_are_those_of_the_cases():
    from benchmarks.gpu import ops

    titles = {ops.title(case): case for group in ops.GROUPS.values() for case in group}
    for title, others, _ in goals.FASTER:
        named = [c for group in ops.GROUPS.values() for c in group if ops.title(c) == title]
        assert any(name.startswith(others) for c in named for name in c.others)
    assert goals.MMD_MS[0] in titles
