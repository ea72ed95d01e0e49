"""A learner does not outlive the `serve` that has started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Site, learner_of, until

#: Starts a child that is as busy as one can be in Python, tells its process id, and waits to be killed.
PARENT = """
import multiprocessing, sys, time
from cifarctl.serving import orphan

def child(pipe, kernel):
    if not kernel:
        orphan.sys = type("elsewhere", (), {"platform": "other"})
    orphan.end_with_parent()
    pipe.send(None)
    while True:
        pass

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=child, args=(theirs, sys.argv[1] == "kernel"))
    process.start()
    ours.recv()
    print(process.pid, flush=True)
    time.sleep(600)
"""


def gone(pid: int) -> bool:
    """Whether a process has ended; its adoptive parent may not have reaped it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("by", ["kernel", "thread"])
def test_a_child_ends_with_its_parent_however_busy_it_is(by: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script, by], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            assert not gone(child)
        finally:
            parent.kill()
    until(lambda: gone(child))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")
def test_a_learner_that_does_nothing_for_itself_ends_with_a_killed_serve(site: Site) -> None:
    """Suspended it cannot decide to end, nor anything else: the kernel ends it."""
    serve = site.start("serve", "--online", "--json", online__niceness=0)
    serve.await_line("learner started")
    learner = learner_of(serve.pid)
    os.kill(learner, signal.SIGSTOP)
    try:
        serve.kill()
        until(lambda: gone(learner), patience_s=20)
    finally:
        if not gone(learner):
            os.kill(learner, signal.SIGKILL)
