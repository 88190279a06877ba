"""A process that has imported FiftyOne, and runs its child processes' modules: each of them would import it again.

It uses the database of the project in its current folder, and runs modules with fresh standard streams.
"""

import importlib
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.integrations import mongo
from tests.support.paths import PROJECT


class FiftyOneProcess:
    """Call `close` before the database is to stop: it runs while this process does."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fiftyone_process"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.uri: str = self._read()  # of the database

    def run_child(self, module: str, _: str, spec: Any) -> Any:
        """Stands in for `pipeline.integrations.fiftyone.run_child`."""
        return json.loads(self._request(module=module, spec=spec))

    def run_code(self, code: str) -> Any:
        """Runs code that prints JSON, and returns that."""
        return json.loads(self._request(code=code))

    def close(self) -> None:
        with self._process:  # closes its standard input, at whose end it ends
            pass
        assert self._process.returncode == 0

    def _request(self, **request: Any) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        output, error = self._read()
        if error:
            raise PipelineError(error)
        assert isinstance(output, str)
        return output

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextmanager
def fiftyone_process(folder: Path) -> Iterator[FiftyOneProcess]:
    process = FiftyOneProcess(folder)
    try:
        yield process
    finally:
        process.close()


def main() -> None:
    answers = sys.stdout
    with mongo.server() as uri:
        # Without a cache, since other processes change the datasets, too.
        os.environ.update(mongo.fiftyone_environment(uri) | {"FIFTYONE_SINGLETON_CACHE": "false"})
        mongo.shorten_fiftyone_import()
        importlib.import_module("fiftyone")
        print(json.dumps(uri), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(_answer(**json.loads(line))), file=answers, flush=True)


def _answer(module: str = "", spec: Any = None, code: str = "") -> tuple[str, str]:
    """What is printed, and the error."""
    usual, output, error = sys.stdin, io.StringIO(), ""
    sys.stdin = io.StringIO(json.dumps(spec))
    try:
        with redirect_stdout(output):
            if module:
                importlib.import_module(module).main()
            else:
                exec(code, {})
    except (Exception, SystemExit) as caught:  # noqa: BLE001
        traceback.print_exc()
        error = f"{type(caught).__name__}: {caught}"
    finally:
        sys.stdin = usual
    return output.getvalue(), error


if __name__ == "__main__":
    main()
