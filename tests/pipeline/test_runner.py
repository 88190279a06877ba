"""What every stage does: signals, a full disk, inputs that change meanwhile, the fingerprint of a training."""

import errno
import gc
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import process, runner
from pipeline.params import Params
from tests.support.paths import PROJECT

SCRIPT = """
import sys, time
from pipeline import process, runner

def working():
    print("working", flush=True)
    return True

{before}
{body}
"""
ENDLESS = "while working(): time.sleep(60)"
DEFERRED = """
request = process.StopRequest()
with request.deferred():
    {work}
process.exit_stopped("train", request.number, " at its end")
"""
OTHER_MACHINE = {
    "machine.device": "cpu",
    "machine.devices": 2,
    "machine.workers": 7,
    "machine.cache": True,
    "machine.checkpoint_seconds": 5.0,
    "machine.checkpoint_steps": 7,
}


def start(before: str, body: str) -> subprocess.Popen[str]:
    """Starts a script and returns when it has printed `working`."""
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(before=before, body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout
    assert started.stdout.readline() == "working\n"
    return started


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_stage_with_one_line(number: signal.Signals, status: int) -> None:
    started = start("process.handle_signals('convert')", ENDLESS)
    started.send_signal(number)
    _, stderr = started.communicate(timeout=20)
    assert (started.returncode, stderr) == (status, f"convert: stopped by {number.name}\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_that_defers_signals_ends_its_work_first(number: signal.Signals, status: int) -> None:
    work = DEFERRED.format(work="working()\n    while not request(): time.sleep(0.01)")
    started = start("process.handle_signals('train')", work)
    started.send_signal(number)
    _, stderr = started.communicate(timeout=20)
    assert (started.returncode, stderr) == (status, f"train: stopped by {number.name} at its end\n")


def test_nohup_keeps_a_stage_when_its_terminal_is_closed() -> None:
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as nohup starts a program
    started = start(ignored + "process.handle_signals('convert')", ENDLESS)
    started.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert started.poll() is None
    started.kill()
    started.communicate(timeout=20)


def test_a_second_ctrl_c_ends_it_at_once_but_not_one_key_that_arrives_twice() -> None:
    started = start("process.handle_signals('train')", DEFERRED.format(work=ENDLESS))
    for _ in range(2):
        started.send_signal(signal.SIGINT)
        time.sleep(0.2)
    started.send_signal(signal.SIGTERM)  # as the parent process sends it
    time.sleep(0.2)
    assert started.poll() is None
    time.sleep(1)
    started.send_signal(signal.SIGINT)
    _, stderr = started.communicate(timeout=20)
    assert (started.returncode, stderr) == (130, "")


def test_a_full_disk_is_one_line() -> None:
    body = (
        "working()\n"
        "def run(params): raise OSError(28, 'No space left on device', 'models/x')\n"
        "from pipeline import params\n"
        "runner.run_stage('convert', run)"
    )
    started = start("", body)
    _, stderr = started.communicate(timeout=20)
    assert started.returncode == 1
    assert stderr == "convert: models/x: No space left on device; free some space and run `dvc repro` again\n"


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test call `run_stage` without changing how the test process ends."""
    monkeypatch.setattr(runner, "die_with_parent", lambda: None)
    monkeypatch.setattr(runner, "handle_signals", lambda _: process.StopRequest())


@pytest.mark.usefixtures("in_this_process", "home")
def test_a_project_that_may_not_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: Params) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "models/x")

    with pytest.raises(SystemExit, match="1"):
        runner.run_stage("convert", run)
    remedy = "run `dvc repro` as a user who may read and write the project"
    assert capsys.readouterr().err == f"convert: models/x: Permission denied; {remedy}\n"


@pytest.mark.usefixtures("in_this_process")
def test_cleanup_comes_last_and_only_if_no_input_changed(
    home: Path, setting: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def run(_: Params) -> Callable[[], None]:
        calls.append("run")
        return lambda: calls.append("cleanup")

    def run_and_edit(params: Params) -> Callable[[], None]:
        setting(**{"train.lr": 0.5})
        return run(params)

    original = (home / "params.yaml").read_text()
    with pytest.raises(SystemExit) as exited:
        runner.run_stage("train", run_and_edit)
    assert exited.value.code == 1
    assert calls == ["run"]
    assert capsys.readouterr().err == (
        "train: params.yaml: train changed while this stage ran, so its result doesn't match its inputs: "
        "undo the edit and run `dvc repro` to keep the result, or run `dvc repro train` to start anew\n"
    )
    (home / "params.yaml").write_text(original)
    runner.run_stage("train", run)
    assert calls == ["run", "run", "cleanup"]


@pytest.mark.usefixtures("in_this_process")
def test_a_stage_without_resumable_state_is_run_again(
    setting: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: Params) -> None:
        setting(**{"convert.val_fraction": 0.5})

    with pytest.raises(SystemExit):
        runner.run_stage("convert", run)
    assert capsys.readouterr().err.endswith("doesn't match its inputs: run `dvc repro convert` again\n")


def test_the_machine_changes_no_fingerprint(home: Path, setting: Callable[..., None]) -> None:
    section = YAML(typ="safe").load((home / "params.yaml").read_text())["machine"]
    assert {f"machine.{name}" for name in section} == OTHER_MACHINE.keys()
    before = runner.fingerprint("train")
    for name, value in OTHER_MACHINE.items():
        assert section[name.removeprefix("machine.")] != value
        setting(**{name: value})
        assert runner.fingerprint("train") == before, name
    setting(**{"train.accumulate": 2})
    assert runner.fingerprint("train") != before


def test_another_image_of_the_same_size_and_time_changes_the_fingerprint(home: Path) -> None:
    image = home / "data/raw/digits/train/1.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"first picture")
    status, before = image.stat(), runner.fingerprint("train")
    assert runner.fingerprint("train") == before
    image.write_bytes(b"other picture")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert runner.fingerprint("train") != before
    image.write_bytes(b"first picture")
    assert runner.fingerprint("train") == before


def test_no_stage_depends_on_the_machine(home: Path) -> None:
    stages = YAML(typ="safe").load((home / "dvc.yaml").read_text())["stages"]
    listed = [name for stage in stages.values() for name in stage["params"]]
    assert not [name for name in listed if name.split(".")[0] == "machine"]
    assert "train" in listed


def test_waiting_threads_soon_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """libgomp itself says what it has read; the two variables of its users are kept."""
    torch = find_spec("torch")  # not imported, which would take seconds
    assert torch
    assert torch.origin
    libraries = sorted((Path(torch.origin).parent / "lib").glob("libgomp*.so*"))
    if not libraries:
        pytest.skip("this torch has no libgomp of its own")
    libgomp = str(libraries[0])
    script = f"import ctypes; from pipeline import process; process.limit_spinning(); ctypes.CDLL({libgomp!r})"

    def spin_count(**variables: str) -> str:
        environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE", **variables}
        shown = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        return re.findall(r"GOMP_SPINCOUNT = '(\w+)'", shown.stderr)[0]

    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert spin_count() == "1000"
    assert spin_count(GOMP_SPINCOUNT="7") == "7"
    assert spin_count(OMP_WAIT_POLICY="PASSIVE") == "0"


def test_training_limits_spinning_before_it_imports_torch() -> None:
    script = (
        "import runpy, sys; sys.modules['torch'] = None; runpy.run_module('pipeline.stages.train', run_name='__main__')"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    script = f"import atexit, os; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT'))); {script}"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert "import of torch" in ended.stderr
    assert ended.stdout == "1000\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the system gives anew is paged in; the settings of the process's environment are kept."""
    script = """
import resource
from pipeline import process
process.keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults(), faults())
"""

    def count(**variables: str) -> list[int]:
        environment = {**os.environ, **variables}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        return [int(number) for number in done.stdout.split()]

    for name in [name for name in os.environ if name.startswith("MALLOC_")] + ["GLIBC_TUNABLES"]:
        monkeypatch.delenv(name, raising=False)
    first, *later = count()
    assert first > 10 * max(*later, 1)
    assert min(count(MALLOC_ARENA_MAX="4")) > first / 2


@pytest.mark.parametrize(
    ("code", "status", "output"),
    [
        ("print('out')", 0, "out\n"),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(-1)", 255, ""),
        ("sys.exit('why')", 1, ""),
        ("sys.exit('')", 1, ""),
        ("sys.exit(None)", 0, ""),
        ("1 / 0", 1, ""),
        ("threading.Timer(0.1, lambda: print('thread')).start()", 0, "thread\n"),
        ("atexit.register(print, 'first'); atexit.register(print, 'second')", 0, "second\nfirst\n"),
        ("print('lost'); os.close(1)", 120, ""),
        ("sys.stdout.close()", 0, ""),
        ("sys.stdout = None; print('lost')", 0, ""),
        ("sys.stderr = None; sys.exit(2)", 2, ""),
    ],
)
def test_a_quick_exit_is_that_of_the_interpreter(code: str, status: int, output: str) -> None:
    """Except that objects are not freed."""
    head = "import atexit, os, sys, threading; from pipeline.process import quick_exit\n"
    class_ = "class Freed:\n    def __del__(self): os.write(2, b'freed')\nkept = Freed()\n"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = [
        subprocess.run(
            [sys.executable, "-c", head + class_ + script], capture_output=True, text=True, check=False, env=environment
        )
        for script in (code, f"with quick_exit(): {code}")
    ]
    interpreters, quick = (done.stderr.replace("freed", "").splitlines()[-1:] for done in ended)
    assert [(done.returncode, done.stdout) for done in ended] == 2 * [(status, output)]
    assert quick == interpreters
    assert ["freed" in done.stderr for done in ended] == [True, "1 / 0" in code]


def test_garbage_is_collected_again_once_a_stage_or_a_process_of_a_training_runs() -> None:
    script = """
import gc, os
from pipeline import process, runner
from pipeline.training import launch
os.environ["FCOS_LAUNCHER"] = str(os.getppid())
process.postpone_collection()
print(gc.isenabled(), gc.get_freeze_count())
try: {start}
except SystemExit: pass
print(gc.isenabled(), gc.get_freeze_count() > 1000)
"""
    for start_of in ("runner.run_stage('convert', lambda params: None)", "launch.run_worker(lambda: None)"):
        command = [sys.executable, "-c", script.format(start=start_of)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
        assert shown.stdout == "False 0\nTrue True\n", shown.stderr


def test_collection_that_was_not_postponed_freezes_nothing() -> None:
    before = gc.get_freeze_count()
    process.resume_collection()
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, before)
