"""Learning curves."""

import math
from pathlib import Path

from PIL import Image

from fcos.training.history import History
from pipeline.visualization.curves import write_training_curves

STEPS = [
    {"step": n, "total": 3 / n, "classification": 1 / n, "box": 1 / n, "quality": 1 / n, "learning_rate": n * 1e-3}
    | {"gradient_norm": math.inf if n < 3 else 10.0**-n}  # as with fp16, where the first steps may be skipped
    | {"annotated": 1.0}  # only for the guards
    for n in range(1, 9)
]
VALIDATIONS = [{"epoch": n, "step": 4 * n, "AP": 0.1 * n, "AP50": 1 / 3} for n in (1, 2)]


def test_learning_curves(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_training_curves(History(STEPS, VALIDATIONS), tmp_path / name, "stopped early")
    first = tmp_path / "first"
    assert (first / "loss.csv").read_text().splitlines()[::8] == [
        "step,total,classification,box,quality,learning_rate,gradient_norm",
        "8,0.375,0.125,0.125,0.125,0.008,1e-08",
    ]
    assert (first / "validation.csv").read_text() == "epoch,step,AP,AP50\n1,4,0.1,0.333333\n2,8,0.2,0.333333\n"
    for file, size in {"loss.png": (800, 700), "optimizer.png": (800, 450)}.items():
        assert (first / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
        with Image.open(first / file) as picture:
            assert picture.size == size
            assert picture.info.keys() <= {"dpi"}  # neither date nor version
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
