"""What programs do to a library: threads, forks, interrupts, no memory, very many calls, random ones."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.distributions import Independent, Normal

import pykernels
import pykernels.reference
from pykernels import _launch, cauchy_mmd, gaussian_mixture_log_prob
from tests import needs
from tests.cases import gradients, mixture_inputs
from tests.fuzz.check import problem_with
from vae.training import single_threaded

HOME = Path(pykernels.__file__).parents[1]
needs_linux = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="only Linux tells what a process holds"
)


def run(script: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", script], cwd=HOME, capture_output=True, text=True, **options)


@pytest.mark.filterwarnings("ignore")  # of torch, on what random calls put in
def test_random_calls():
    with single_threaded():
        found = {number: problem_with(number) for number in range(260)}
    assert {number: problem for number, (_, problem) in found.items() if problem} == {}


def test_many_threads_at_once():
    inputs = [mixture_inputs(150, 90 + seed, 4, dtype=torch.float32, seed=seed) for seed in range(8)]
    points = [torch.randn(300, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]

    def call(number):
        one = inputs[number % 8]
        log_prob = gaussian_mixture_log_prob(*one)
        return [
            log_prob,
            *gradients((log_prob,), one),
            cauchy_mmd(points[number % 8], points[(number + 1) % 8]),
        ]

    alone = [call(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for number, results in enumerate(pool.map(call, range(64))):
            assert all(map(torch.equal, results, alone[number % 8]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_computes_the_same():
    done = run(
        """
import os, sys, torch, pykernels
torch.set_num_threads(2)
z = torch.randn(3000, 8)
before = pykernels.gaussian_mixture_log_prob(z, z, torch.tensor(1.0))
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # the parent's others are not there, and OpenMP would wait for them
    same = torch.equal(before, pykernels.gaussian_mixture_log_prob(z, z, torch.tensor(1.0)))
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
""",
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


def backward(z, loc):
    log2 = torch.full((len(z),), -200.0)
    grads, slopes = (torch.ones(len(z)), None), (None, None)
    mask = [False, True, False, False]
    _launch.mixture_log_prob_backward(*grads, log2, None, *slopes, z, loc, torch.ones(1, 1), None, mask)


LONG_CALLS = {
    "forward": lambda z, loc: gaussian_mixture_log_prob(z, loc, torch.ones(())),
    "backward": backward,
    "mmd": lambda z, loc: cauchy_mmd(z, loc, method="direct"),
}


@needs.kernels
@pytest.mark.parametrize("name", LONG_CALLS)
def test_ctrl_c_stops_a_long_call_at_once(name):
    """Alone it would take minutes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of pytest-xdist ignore it
    z, loc = torch.randn(100_000, 50), torch.randn(200_000, 50)
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.5, interrupt)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            LONG_CALLS[name](z, loc)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - sent[0] < 5  # well under a second where nothing else runs
    assert cauchy_mmd(z[:3], z[:3], unbiased=False) == 0  # and goes on


@needs_linux
@needs.own_memory
def test_no_memory_is_an_error_and_no_crash():
    done = run(
        """
import resource, torch, pykernels
z = torch.randn(2000, 10)
pykernels.cauchy_mmd(z, z)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (64 << 20),) * 2)
big = torch.zeros(1).expand(4_000_000, 10)
for call in (
    lambda: pykernels.gaussian_mixture_log_prob(big, z, torch.tensor(1.0)),
    lambda: pykernels.gaussian_mixture_log_prob(z[:5], big, torch.tensor(1.0)),
    lambda: pykernels.cauchy_mmd(big, z),
    lambda: pykernels.mmd(big, z),
):
    try:
        call()
        print("done")
    except (MemoryError, RuntimeError) as error:
        print("refused", type(error).__name__)
print(pykernels.cauchy_mmd(z[:3], z[:3], unbiased=False).item())
""",
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0.0"
    assert "refused" in done.stdout


@needs_linux
@needs.own_memory
def test_ten_thousand_calls_leak_nothing():
    inputs = mixture_inputs(9, 17, 3, dtype=torch.float32)
    x, y = torch.randn(20, 2), torch.randn(20, 2, requires_grad=True)

    def call(times):
        for _ in range(times):
            torch.autograd.grad(gaussian_mixture_log_prob(*inputs).sum(), inputs.loc)
            torch.autograd.grad(cauchy_mmd(x, y), y)

    def pages():
        return int(Path("/proc/self/statm").read_text().split()[1])

    call(1000)
    before = pages()
    call(4000)
    grown = (pages() - before) * os.sysconf("SC_PAGE_SIZE")
    assert grown < 2 << 20, f"{grown} bytes in 8000 calls"


def test_sparse_tensors_are_refused_in_words():
    dense = torch.ones(3, 2)
    with pytest.raises(
        TypeError, match=r"loc must be a dense tensor, but its layout is sparse_coo: .*to_dense"
    ):
        gaussian_mixture_log_prob(dense, dense.to_sparse(), torch.ones(()))
    with pytest.raises(TypeError, match="value must be a dense tensor"):
        pykernels.DiagonalGaussianMixture(dense, torch.ones(())).log_prob(dense.to_sparse())
    with pytest.raises(TypeError, match="y must be a dense tensor"):
        cauchy_mmd(dense, dense.to_sparse())


def test_what_random_calls_found_is_refused_in_words():
    points = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"dataset_size must be below 2\^63"):
        pykernels.minibatch_log_prob(points, points, torch.ones(()), 10**30, "mss")
    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    for function in (pykernels.exclusive_kl, pykernels.kl_decomposition):
        with pytest.raises(
            ValueError, match=r"scale must broadcast to loc \[n, D\], but has shape \[3, 3, 1\]"
        ):
            function(points, points, torch.ones(3, 3, 1), prior)
    with pytest.raises(ValueError, match=r"log_weights must broadcast to \[n\], but has shape \[4, 3\]"):
        pykernels.inclusive_kl(prior, points, torch.ones(()), torch.zeros(4, 3), num_samples=5)
    with pytest.raises(TypeError, match="x must be a tensor, but came as list"):
        pykernels.mmd([[0.0]], points)


def test_the_references_mmd_has_float64_scales():
    """Such as 0.2, which float32 has not, as a list: the error was 1e-8."""
    x, y = torch.randn(2, 40, 3, dtype=torch.float64)
    scales = torch.tensor([0.2, 1.3], dtype=torch.float64)
    ours, expected = (pykernels.reference.mmd(x, y, scales=given) for given in (scales.tolist(), scales))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_an_exception_in_a_callers_hook_leaves_nothing_behind():
    inputs = mixture_inputs(40, 30, 3)
    expected = gradients((gaussian_mixture_log_prob(*inputs),), inputs)

    def fail(_):
        raise ZeroDivisionError

    loc = inputs.loc.detach().requires_grad_()
    loc.register_hook(fail)
    with pytest.raises(ZeroDivisionError):
        gaussian_mixture_log_prob(inputs.value, loc, inputs.scale, inputs.log_weights).sum().backward()
    assert all(map(torch.equal, gradients((gaussian_mixture_log_prob(*inputs),), inputs), expected))
