"""A process of `launch` that does what an argument says, without torch: FOLDER and a word for each rank."""

import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

folder, rank = Path(sys.argv[1]), os.environ["RANK"]
launch_folder = Path(os.environ["FCOS_LAUNCH_FOLDER"])
behavior = sys.argv[2:][int(rank)]
with (folder / "started").open("a") as file:
    file.write(rank)

if behavior == "describes":
    description = {"mode": stat.S_IMODE(launch_folder.stat().st_mode), "environment": dict(os.environ)}
    (folder / f"{rank}.json").write_text(json.dumps(description))
elif behavior == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif behavior == "raises":
    failure = {"message": "", "trace": "Traceback of this process\n"}
    (launch_folder / f"{rank}.json").write_text(json.dumps(failure))
    sys.exit(1)
elif behavior == "hangs":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(300)
else:  # the name of a signal for the launcher; the other processes wait
    if behavior != "waits":
        while len((folder / "started").read_text()) < 2:
            time.sleep(0.01)
        os.kill(os.getppid(), signal.Signals[behavior])
    time.sleep(300)
