"""Lines out of bytes, and children that end as they are told."""

import subprocess
import sys
import time
from itertools import pairwise

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.supervise import Children, Line, LineSplitter, minimal_environment, run
from job.trainers.base import Command


def split(pieces: list[bytes]) -> list[str]:
    splitter = LineSplitter()
    lines = [line.text for piece in pieces for line in splitter.feed(piece)]
    return lines + [line.text for line in splitter.feed(b"", final=True)]


@given(
    text=st.text(alphabet=st.sampled_from("ab█ス\r\n "), max_size=60),
    cuts=st.lists(st.integers(0, 200), max_size=12),
)
def test_borders_between_pieces_do_not_matter(text: str, cuts: list[int]) -> None:
    data = text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert split(pieces) == [line for line in text.replace("\r", "\n").split("\n") if line]


@given(data=st.binary(max_size=80), cut=st.integers(0, 80))
def test_bytes_that_are_no_text_do_no_harm(data: bytes, cut: int) -> None:
    assert split([data[:cut], data[cut:]]) == split([data])


def test_a_line_without_end_is_cut() -> None:
    splitter = LineSplitter(limit=10)
    lines = list(splitter.feed(b"x" * 25))
    assert [len(line.text) for line in lines] == [10, 10]


def test_rewritten_lines_are_told_apart() -> None:
    assert list(LineSplitter().feed(b"50%\r100%\r\ndone\n")) == [
        Line("50%", True),
        Line("100%", False),
        Line("done", False),
    ]


def test_the_environment_of_a_child_is_minimal() -> None:
    parent = {
        "PATH": "/bin",
        "RUNPOD_API_KEY": "x",
        "RETRAIN_MANIFEST_URL": "x",
        "CUDA_HOME": "c",
        "HF_TOKEN": "x",
    }
    assert minimal_environment(parent, {"MINE": "1"}) == {
        "PATH": "/bin",
        "CUDA_HOME": "c",
        "MINE": "1",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code))


def supervised(code: str, *, tick: object = None, grace: float = 5) -> tuple[int, list[str]]:
    lines: list[str] = []
    ended = run(
        python(code),
        on_line=lambda line: lines.append(line.text),
        tick=tick or (lambda: None),  # type: ignore[arg-type]
        grace=lambda: grace,
        children=Children(),
    )
    return ended.code, lines


@pytest.mark.slow
def test_both_pipes_and_the_exit_code() -> None:
    code, lines = supervised("import sys; print('out'); sys.stderr.write('err'); sys.exit(7)")
    assert (code, sorted(lines)) == (7, ["err", "out"])


@pytest.mark.slow
def test_a_signal_is_passed_on() -> None:
    assert supervised("import os; os.kill(os.getpid(), 9)")[0] == -9
    assert supervised("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")[0] == -11


@pytest.mark.slow
def test_a_command_that_does_not_exist() -> None:
    lines: list[str] = []
    ended = run(
        Command(("/nonexistent/trainer",)),
        on_line=lambda line: lines.append(line.text),
        tick=lambda: None,
        grace=lambda: 1.0,
        children=Children(),
    )
    assert ended.code == 127 and "cannot start" in lines[0]


@pytest.mark.slow
def test_a_flood_of_output_arrives_whole() -> None:
    _, lines = supervised("for n in range(100000): print(n)")
    assert lines == [str(n) for n in range(100_000)]


@pytest.mark.slow
def test_what_a_child_leaves_behind_is_killed() -> None:
    code = (
        "import subprocess as s, sys; p = s.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(p.pid)"
    )
    _, lines = supervised(code)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(int(lines[0])) and psutil.Process(int(lines[0])).status() != "zombie":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_an_error_stops_the_child_and_its_last_words_are_heard() -> None:
    lines: list[str] = []

    class OhError(Exception):
        pass

    def tick() -> None:
        if lines:
            raise OhError

    code = (
        "import signal, sys, time\n"
        "def bye(*_): print('bye', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    with pytest.raises(OhError):
        run(
            python(code),
            on_line=lambda line: lines.append(line.text),
            tick=tick,
            grace=lambda: 60.0,
            children=Children(),
        )
    assert lines == ["ready", "bye"]


@pytest.mark.slow
def test_children_can_be_killed_from_outside() -> None:
    children = Children()
    lines: list[str] = []

    def on_line(line: Line) -> None:
        lines.append(line.text)
        children.kill()

    ended = run(
        python("import time; print('up', flush=True); time.sleep(600)"),
        on_line=on_line,
        tick=lambda: None,
        grace=lambda: 1.0,
        children=children,
    )
    assert ended.code == -9 and lines == ["up"]


ADOPTING = """
import ctypes, sys, threading, time
import psutil
from job.supervise import Children, run
from job.trainers.base import Command

assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: what PID 1 is in a container
children = Children()
leaves = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', ''], start_new_session=True)"

def zombies():
    return sum(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process().children())

done = threading.Event()
def reap():
    while not done.wait(0.001):
        children.reap_orphans()
if sys.argv[1] == "reaping":
    threading.Thread(target=reap).start()
codes = [
    run(Command((sys.executable, "-c", leaves + f"; sys.exit({code})")), on_line=print, tick=lambda: None,
        grace=lambda: 5, children=children).code
    for code in (3, 4, 5, 6)
]
ends = time.monotonic() + 20
while sys.argv[1] == "reaping" and zombies() and time.monotonic() < ends:
    time.sleep(0.05)
done.set()
print(codes, "left:", zombies())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="containers")
def test_orphans_are_let_go_and_children_never() -> None:
    """The code of a child that somebody else waited for would be lost, and read as 0."""

    def adopt(how: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", ADOPTING, how], capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout.strip()

    assert adopt("reaping") == "[3, 4, 5, 6] left: 0"
    assert adopt("not") == "[3, 4, 5, 6] left: 4"
