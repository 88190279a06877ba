"""Data sets of FiftyOne's zoo.

The tests register small data sets in the zoo, in the way that FiftyOne documents, and so need no network.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from pipeline import formats, params
from pipeline.errors import PipelineError
from pipeline.integrations import fiftyone_zoo, mongo
from pipeline.params import ZooParams
from tests.support.paths import PROJECT
from tests.support.projects import readme

NO_LIMITS = ZooParams(splits=None, classes=None, max_samples=None)
ZOO_MODULE = """
import json
import os
from pathlib import Path

import fiftyone as fo
from fiftyone.zoo.datasets import ZooDataset
from PIL import Image

OBJECTS = {
    "a": [("cat", (0.25, 0.1, 0.5, 0.6), {}), ("dog", (0, 0, 1, 1), {"iscrowd": 1})],
    "b/b": [("bird", (0.5, 0.5, 0.25, 0.2), {"difficult": "1"})],
    "c": [],
    "d": [("dog", (0.1, 0.2, 0.3, 0.4), {"IsGroupOf": True})],
}
FILES = {"train": ["c", "b/b", "a"], "validation": ["d"], "test": ["e"]}


class Little(ZooDataset):
    name = "little"
    supported_splits = ("train", "validation", "test")

    def _download_and_prepare(self, dataset_dir, scratch_dir, split):
        for name in FILES[split]:
            path = fo.core.storage.join(dataset_dir, name + ".png")
            fo.core.storage.ensure_basedir(path)
            Image.new("RGB", (40, 30), (ord(name[0]), 0, 0)).save(path)
        return None, len(FILES[split]), ["dog", "cat", "never seen"]

    def _load_dataset(self, dataset, dataset_dir, split=None):
        for name in FILES[split]:
            sample = fo.Sample(filepath=fo.core.storage.join(dataset_dir, name + ".png"), tags=[split])
            if name in OBJECTS:
                objects = [fo.Detection(label=label, bounding_box=box, **more) for label, box, more in OBJECTS[name]]
                sample["objects"] = fo.Detections(detections=objects)
            dataset.add_sample(sample)


class OpenLittle(Little):
    name = "open-images-little"

    def __init__(self, label_types=None, classes=None, max_samples=None):
        arguments = {"label_types": label_types, "classes": classes, "max_samples": max_samples}
        if any(arguments.values()):
            Path(os.environ["ZOO_ARGUMENTS"]).write_text(json.dumps(arguments))


class Boxless(ZooDataset):
    name = "boxless"
    supported_splits = None

    def _download_and_prepare(self, dataset_dir, scratch_dir, split):
        fo.core.storage.ensure_dir(dataset_dir)
        Image.new("RGB", (40, 30)).save(fo.core.storage.join(dataset_dir, "x.png"))
        return None, 1, None

    def _load_dataset(self, dataset, dataset_dir, split=None):
        path = fo.core.storage.join(dataset_dir, "x.png")
        dataset.add_sample(fo.Sample(filepath=path, species=fo.Classification(label="cat")))
"""


@pytest.fixture
def registered(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Registers the data sets of `ZOO_MODULE` in the zoo and returns a folder to download to."""
    (tmp_path / "our_zoo.py").write_text(ZOO_MODULE)
    manifest = tmp_path / "manifest.json"
    classes = {"little": "Little", "open-images-little": "OpenLittle", "boxless": "Boxless"}
    manifest.write_text(json.dumps({"tests": {name: f"our_zoo.{class_name}" for name, class_name in classes.items()}}))
    monkeypatch.setenv("ZOO_ARGUMENTS", str(tmp_path / "arguments.json"))
    monkeypatch.setenv("FIFTYONE_DATASET_ZOO_MANIFEST_PATHS", str(manifest))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("FIFTYONE_DATASET_ZOO_DIR", "FIFTYONE_DATABASE_URI"):
        monkeypatch.delenv(name, raising=False)
    return home / "raw"


def test_a_data_set_of_the_zoo(registered: Path) -> None:
    """The download keeps the splits, the order of the classes, images without objects, crowds and difficult objects.

    It leaves out the test split, which has no labels: its images must not count as empty.
    """
    downloads = fiftyone_zoo.fetch("little", NO_LIMITS, registered)
    assert [path.relative_to(registered.parent).as_posix() for path in downloads] == [".fcos/downloads/fiftyone/little"]
    assert (downloads[0] / "train/b/b.png").is_file()
    data = formats.read(registered)
    assert formats.recognize(registered) == "coco"
    assert [category.name for category in data.categories] == ["dog", "cat", "never seen", "bird"]
    assert {name: [image.file for image in split.images] for name, split in data.splits.items()} == {
        "train": ["train/images/a.png", "train/images/b/b.png", "train/images/c.png"],
        "validation": ["validation/images/d.png"],
    }
    objects = {image.file[-5]: image.objects for split in data.splits.values() for image in split.images}
    assert [(item.class_name, item.box, item.iscrowd, item.difficult) for item in objects["a"]] == [
        ("cat", (10.0, 3.0, 20.0, 18.0), 0, 0),
        ("dog", (0.0, 0.0, 40.0, 30.0), 1, 0),
    ]
    assert [(item.box, item.difficult) for item in objects["b"]] == [((20.0, 15.0, 10.0, 6.0), 1)]
    assert objects["c"] == ()
    assert [(item.class_name, item.iscrowd) for item in objects["d"]] == [("dog", 1)]


# Fetches all cases in one process, since importing FiftyOne takes seconds.
FETCH_CASES = """
import json, sys
from pathlib import Path
from pipeline.integrations import fiftyone_zoo

errors = {}
for case, name, splits, classes, samples in json.load(sys.stdin):
    try:
        fiftyone_zoo._fetch(name, Path(sys.argv[1], case), splits, classes, samples)
    except Exception as error:
        errors[case] = f"{type(error).__name__}: {error}"
print(json.dumps(errors))
"""


def test_limits_are_applied_and_failures_have_reasons(registered: Path) -> None:
    cases = [
        ("classes", "little", ["train"], ["cat"], None),
        ("samples", "little", ["validation", "train"], None, 1),
        ("open", "open-images-little", ["train"], ["cat"], 7),
        ("nothing", "little", None, ["sheep"], None),
        ("no truth", "little", ["test"], None, None),
        ("no split", "little", ["testing"], None, None),
        ("no boxes", "boxless", None, None, None),
        ("no such", "no-such", None, None, None),
    ]
    with mongo.server() as uri:
        run = subprocess.run(
            [sys.executable, "-c", FETCH_CASES, registered],
            input=json.dumps(cases),
            env={
                **mongo.fiftyone_environment(uri),
                "PYTHONPATH": f"{PROJECT}:{os.environ['PYTHONPATH']}",
                "FIFTYONE_DATASET_ZOO_DIR": str(registered / "zoo"),
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    errors = json.loads(run.stdout.splitlines()[-1])
    arguments = json.loads(Path(os.environ["ZOO_ARGUMENTS"]).read_text())
    assert arguments == {"label_types": ["detections"], "classes": ["cat"], "max_samples": 7}
    assert {case: list(image_files(registered / case)) for case in ("classes", "samples")} == {
        "classes": ["train/images/a.png"],
        "samples": ["train/images/a.png", "validation/images/d.png"],
    }
    assert errors["no truth"].startswith("PipelineError: it has no boxes to learn from (fields with labels: none)")
    assert errors["nothing"].startswith("PipelineError: no image with labels is left; see download.zoo.splits")
    assert errors["no split"].startswith("ValueError: Invalid split 'testing'; supported values are")
    assert errors["no boxes"].startswith("PipelineError: it has no boxes to learn from (fields with labels: species)")
    assert errors["no such"].startswith("PipelineError: FiftyOne's zoo has no such data set")


def image_files(folder: Path) -> Iterator[str]:
    splits = formats.read(folder).splits
    return (image.file for name in sorted(splits) for image in splits[name].images)


def test_the_commands_of_the_docs_set_the_described_limits(home: Path) -> None:
    """Applies the overrides of each command to params.yaml as DVC does; downloads nothing."""
    first, second = readme("FiftyOne's zoo", "docs/datasets.md")
    for command, name, expected in (
        (first, "quickstart", NO_LIMITS),
        (second, "open-images-v7", ZooParams(splits=("train", "validation"), classes=("Cat", "Dog"), max_samples=2000)),
    ):
        assert command[:3] == ["dvc", "exp", "run"]
        apply_overrides(home / "params.yaml", [value for flag, value in pairwise(command) if flag == "-S"])
        values = params.load()
        assert (values.dataset, values.download.zoo) == (f"fiftyone:{name}", expected)


@pytest.mark.usefixtures("registered")
def test_an_error_of_the_child_process_gives_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError, match=r"^fiftyone:little: KeyError: 'into'$"):
        fiftyone_zoo._run({"name": "little"}, dict(os.environ))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["", "../x", "https://github.com/a/b"])
def test_invalid_names_are_refused(registered: Path, name: str) -> None:
    with pytest.raises(PipelineError, match="zoo datasets list"):
        fiftyone_zoo.fetch(name, NO_LIMITS, registered)
