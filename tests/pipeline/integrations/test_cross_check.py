"""The folds of a cross-check: their names and parameters, what runs, what is kept, what is refused, what is judged.

Folders stand for DVC's experiments; tests of `pipeline.integrations.dvc` are in test_experiments.py.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image as Pillow

from pipeline import params
from pipeline.analysis import cross_check_files
from pipeline.cli import main
from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.files import write_json
from pipeline.integrations import cross_check, dvc
from pipeline.integrations.experiments import FindFile
from tests.support.paths import PROJECT
from tests.support.projects import readme

# What is found in images 1 to 4: a dog at a cat's label, nothing, an object without a label, another box.
BOX, ELSEWHERE, POOR = (10.0, 10.0, 20.0, 20.0), (60.0, 10.0, 20.0, 20.0), (10.0, 10.0, 20.0, 10.0)
CATEGORIES = (Category(3, "cat"), Category(7, "dog"))
FOUND = {1: [(7, BOX, 0.9)], 2: [], 3: [(3, BOX, 0.8), (7, ELSEWHERE, 0.7)], 4: [(3, POOR, 0.6)]}


def make_truth(*images: int, first_id: int = 1) -> AnnotationSet:
    """Images with a cat each; ids of images and labels start at `first_id`, names stay."""
    records = tuple(Image(first_id + index, f"{number}.png", 100, 50) for index, number in enumerate(images))
    labels = tuple(Annotation(10 * image.id, image.id, 3, BOX, 400.0) for image in records)
    return AnnotationSet(CATEGORIES, records, labels)


def make_detections(truth: AnnotationSet) -> list[Detection]:
    return [
        Detection(image.id, category, box, score)
        for image in truth.images
        for category, box, score in FOUND[int(image.file_name[0])]
    ]


def write_data(folder: Path, splits: dict[str, AnnotationSet], *, held_out: bool) -> None:
    for split, truth in splits.items():
        annotations.write(truth, folder / f"data/unified/{split}.json")
    results.write(make_detections(splits["val"]), folder / "predictions/val.json")
    sources = {"train": "trainval", "val": "a share of trainval"} if held_out else {"train": "train", "val": "my val"}
    report = {"hold_out": {} if held_out else None, "splits": {name: {"source": sources[name]} for name in sources}}
    write_json(folder / "data/unified/report.json", report)


class Runner:
    """In the place of DVC: writes the files of a fold's experiment, whose images have other ids than the project's."""

    folds = ((4, 1), (2,), (3,))

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[str] = []
        self.queued: list[str] = []
        self.failing = "none"
        self.up_to_date = True

    def run_experiment(self, name: str, overrides: Sequence[str], target: str, *, queue: bool) -> int:
        assert target == "evaluate"
        if queue:
            self.queued.append(name)
            return 0
        self.ran.append(name)
        if name.endswith(self.failing):
            return 1
        fold = int(name.rpartition("-")[2])
        assert overrides[-1] == f"convert.fold={fold}"
        truth = make_truth(*self.folds[fold], first_id=50)
        write_data(self.folder / name, {"train": make_truth(2), "val": truth}, held_out=True)
        return 0

    def experiment_names(self) -> set[str]:
        return {file.name for file in self.folder.iterdir()}

    @contextmanager
    def open_files(self, name: str) -> Iterator[FindFile]:
        def find(path: str) -> Path:
            file = self.folder / name / path
            if not file.exists():  # as `dvc.Revision.copy`
                raise PipelineError(f"{name}: {path} is no longer in DVC's cache: run `dvc exp apply {name}`, then …")
            return file

        yield find


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """A project with images 1 and 3 in train, 2 and 4 in val, is the current folder."""
    home, experiments = tmp_path / "project", tmp_path / "experiments"
    experiments.mkdir()
    write_data(home, {"train": make_truth(1, 3), "val": make_truth(2, 4)}, held_out=False)
    for number in FOUND:
        (home / "data/raw/digits").mkdir(parents=True, exist_ok=True)
        Pillow.new("RGB", (100, 50), (number * 40, 90, 40)).save(home / f"data/raw/digits/{number}.png")
    shutil.copy(PROJECT / "params.yaml", home)
    (home / "dvc.yaml").touch()
    monkeypatch.chdir(home)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    fake = Runner(experiments)
    monkeypatch.setattr(dvc, "run_experiment", fake.run_experiment)
    monkeypatch.setattr(dvc, "experiment_names", fake.experiment_names)
    monkeypatch.setattr(dvc, "queued_names", lambda: set(fake.queued))
    monkeypatch.setattr(dvc, "is_up_to_date", lambda _: fake.up_to_date)
    monkeypatch.setattr(cross_check, "open_files", fake.open_files)
    return fake


def fcos(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["cross-check", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_candidates_of_all_folds_with_the_ids_of_the_project_and_finished_folds_are_kept(runner: Runner) -> None:
    runner.failing = "fold-2"
    failed = fcos()
    assert (failed.exit_code, len(runner.ran)) == (1, 3)
    assert failed.stderr.splitlines()[-1].startswith(f"fcos: {runner.ran[2]}: this experiment failed")
    assert not Path("reports").exists()
    runner.failing = "none"
    result = fcos()
    assert runner.ran[3:] == [runner.ran[2]]
    assert "Judged: 4 labels in 4 images; 3 folds of train and val." in result.stdout
    found = json.loads(Path("reports/label_errors.json").read_text())
    # The mean score of cats' labels is (0.9 + 0 + 0.8 + 0.6) / 4 = 0.575.
    keys = ("kind", "split", "file_name", "image_id", "annotation_id")
    assert [tuple(item[key] for key in keys) for item in found] == [
        ("wrong_class", "train", "1.png", 1, 10),
        ("missing", "train", "3.png", 2, None),
        ("spurious", "val", "2.png", 1, 10),
        ("poor_box", "val", "4.png", 2, 20),
    ]  # fmt: skip
    assert [item["rank_score"] for item in found] == pytest.approx([0.9, 0.7, 0.575, 0.3])
    assert [(item["bbox"], item["category"]) for item in found] == [
        (None, "dog"), (list(ELSEWHERE), "dog"), (None, None), (list(POOR), None)
    ]  # fmt: skip
    assert result.stdout.splitlines()[-1] == "To correct the labels: `fcos app --split train` and `fcos app`."
    kept = json.loads(Path("reports/cross_check/train.json").read_text())
    assert [(item["image_id"], item["category_id"], item["score"]) for item in kept] == [
        (1, 7, 0.9), (2, 3, 0.8), (2, 7, 0.7)
    ]  # fmt: skip
    assert cross_check_files.are_current(Path())
    page = Path("reports/label_errors.html").read_text()
    assert page.count("<figure>") == page.count("data:image/jpeg") == 4
    assert "label: cat; found: dog" in page


def test_the_commands_of_the_documentation(runner: Runner) -> None:
    for section in ("Find label errors", "Without training"):
        for program, command, *options in readme(section, "docs/label-errors.md"):
            assert program == "dvc" or command == "cross-check"
            assert program == "dvc" or fcos(*options).exit_code == 0, options
    assert (len(runner.ran), runner.queued) == (3, [])  # all folds had finished


def test_queue_leaves_out_what_waits_or_has_finished(runner: Runner) -> None:
    runner.failing = "fold-1"
    fcos()
    first, *others = (fold.name for fold in cross_check.plan(params.load(), (), 3))
    assert runner.ran == [first, others[0]]
    assert fcos("--queue").stdout.startswith("2 folds queued, 0 in the queue before. Run them with `dvc queue start`")
    assert runner.queued == others
    assert fcos("--queue").stdout.startswith("0 folds queued, 2 in the queue before.")
    waiting = fcos()
    assert waiting.exit_code == 1
    assert waiting.stderr.splitlines()[-1].startswith(f"fcos: {others[0]}: is in DVC's queue: wait until")


def test_val_alone(runner: Runner) -> None:
    result = fcos("--val-only")
    assert "Judged: 2 labels in 2 images; val alone, whose detections the evaluate stage made." in result.stdout
    found = json.loads(Path("reports/label_errors.json").read_text())
    # The mean of 0 and 0.6 for the spurious one.
    assert [(item["kind"], item["rank_score"]) for item in found] == [("spurious", 0.3), ("poor_box", 0.3)]
    assert not runner.ran
    shutil.rmtree("predictions")
    assert "predictions/val.json: not there yet; run `dvc repro evaluate`" in fcos("--val-only").stderr


@pytest.mark.usefixtures("runner")
def test_parameters_of_a_fold() -> None:
    values = params.load()
    folds = cross_check.plan(values, ["train.epochs=3"], 3)
    assert folds[1].overrides == (
        "train.epochs=3", 'convert.train="train+my val"', "convert.val=null", "convert.folds=3", "convert.fold=1"
    )  # fmt: skip
    assert [fold.name for fold in folds] == [fold.name for fold in cross_check.plan(values, ["train.epochs=3"], 3)]
    others = (
        cross_check.plan(values, changed, count) for changed, count in ((["train.epochs=4"], 3), ([], 3), ([], 4))
    )
    assert len({folds[0].name, *(plan[0].name for plan in others)}) == 4
    same = cross_check.plan(values, ["train.epochs=3", "machine.workers=1", "inspect.max_images=1"], 3)
    assert same[0].name == folds[0].name


@pytest.mark.usefixtures("runner")
def test_own_data_is_found_from_a_temporary_workspace() -> None:
    file = Path("params.yaml")
    file.write_text(file.read_text().replace("dataset: digits", "dataset: custom", 1))
    assert f'download.path="{Path.cwd()}/data/custom"' in cross_check.plan(params.load(), (), 2)[0].overrides


@pytest.mark.usefixtures("runner")
def test_a_share_of_train_is_divided_with_the_rest() -> None:
    write_data(Path(), {"train": make_truth(1, 3), "val": make_truth(2, 4)}, held_out=True)
    assert "convert.train=trainval" in cross_check.plan(params.load(), (), 2)[0].overrides


def test_labels_that_are_out_of_date_are_refused(runner: Runner) -> None:
    with pytest.raises(
        PipelineError, match=r"^-S convert: the labels in data/unified are judged; change them in params"
    ):
        cross_check.plan(params.load(), ["convert.split_seed=1"], 2)
    runner.up_to_date = False
    with pytest.raises(PipelineError, match=r"^data/unified is out of date; run `dvc repro convert`$"):
        cross_check.plan(params.load(), (), 2)
    shutil.rmtree("data/unified")
    with pytest.raises(PipelineError, match=r"unified/report.json: not there yet; run `dvc repro convert`$"):
        cross_check.plan(params.load(), (), 2)


def test_a_fold_with_other_labels_or_without_detections_is_named(runner: Runner) -> None:
    fcos()
    folds = cross_check.plan(params.load(), (), 3)
    changed = make_truth(2, 4)
    annotations.write(AnnotationSet(CATEGORIES, changed.images, changed.annotations[:1]), Path("data/unified/val.json"))
    with pytest.raises(PipelineError) as raised:
        cross_check.collect(folds)
    remedy = f"run `dvc exp remove {folds[0].name}`, then this command again"
    assert str(raised.value) == f"{folds[0].name}: 4.png has other labels than in data/unified; {remedy}"
    shutil.rmtree(runner.folder / folds[0].name)
    with pytest.raises(PipelineError) as raised:
        cross_check.collect(folds)
    assert str(raised.value) == f"{folds[0].name}: data/unified/val.json is no longer in DVC's cache; {remedy}"


def test_arguments() -> None:
    result = fcos("--val-only", "--queue")
    assert (result.exit_code, "--val-only trains nothing" in result.stderr) == (2, True)
