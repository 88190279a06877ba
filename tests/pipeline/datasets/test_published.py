"""Every entry from download to a training step, from a mirror on the loopback, and the handling of downloads."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fcos.detector import Detector
from fcos.training.history import NullCallback, Row
from pipeline import params
from pipeline.conversion import convert
from pipeline.data import annotations
from pipeline.datasets import published, registry
from pipeline.datasets.registry import Entry
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.stages import convert as convert_stage
from pipeline.stages import download
from pipeline.training.build import make_batches, make_trainer
from tests.support.dataset_layouts import LAYOUTS, SPLITS, small


def train_one_step(values: Params, split: annotations.AnnotationSet, raw: Path) -> Row:
    def validate(_: Detector) -> Row:
        return {}

    train = replace(values.train, epochs=1, batch_size=8, size=(64, 64), warmup=0.0, ema_decay=0.0)
    values = replace(
        values, machine=replace(values.machine, device="cpu"), model=replace(values.model, channels=8), train=train
    )
    batches = make_batches(values, split, raw)
    trainer = make_trainer(
        values,
        batches=batches,
        validate=validate,
        classes=[category.name for category in split.categories],
        callback=NullCallback(),
        checkpoint=None,
    )
    (step,) = trainer.fit().steps
    return step


@pytest.mark.parametrize("name", registry.names())
def test_entry_downloads_converts_and_trains(name: str, mirror: Path, address: str, home: Path) -> None:
    entry, raw = small(registry.find(name), mirror), home / "data/raw" / name
    downloads = published.fetch(entry, name, raw, address)
    assert sorted(path.name for path in downloads) == sorted([".fetched", *LAYOUTS[name]])
    values = params.load()
    options = registry.with_splits(values.convert, registry.entry_for(name, raw))
    report = convert(raw, home / "unified", options, entry.format)
    splits = {split: annotations.read(home / f"unified/{split}.json") for split in report["splits"]}
    stem_endings = {split: [Path(image.file_name).stem[-3:] for image in read.images] for split, read in splits.items()}
    if name in SPLITS:
        assert {split: sorted(names) for split, names in stem_endings.items()} == {
            split: sorted(names) for split, names in SPLITS[name].items()
        }
    assert sum(len(read.annotations) for read in splits.values()) == sum(map(len, stem_endings.values()))
    step = train_one_step(values, splits["train"], raw)
    assert step["positives"] > 0
    assert np.isfinite(step["total"])


def test_a_wrong_file_is_not_unpacked(bccd: Entry, mirror: Path, home: Path) -> None:
    wrong = replace(bccd.files[0], checksum="md5:" + "0" * 32)
    with pytest.raises(PipelineError, match=r"BCCD_Dataset-d272fb1\.zip"):
        published.fetch(replace(bccd, files=(wrong,)), "bccd", home / "raw", str(mirror))
    assert not (home / "raw").exists()


def test_a_file_placed_by_hand_is_kept(bccd: Entry, mirror: Path, home: Path) -> None:
    name = bccd.files[0].name
    by_hand = home / ".fcos/downloads/bccd" / name
    by_hand.parent.mkdir(parents=True)
    shutil.copy(mirror / name, by_hand)
    downloads = published.fetch(bccd, "bccd", home / "raw", "http://127.0.0.1:9")  # no server at this address
    assert by_hand not in downloads
    assert (home / "raw" / "BCCD_Dataset-d272fb14cdff6e473fafeeeba32aba5f560e9e43/BCCD/JPEGImages").is_dir()


def test_the_downloads_of_an_interrupted_run_are_returned(mirror: Path, home: Path) -> None:
    entry = small(registry.find("voc2007"), mirror)
    first, second = entry.files
    broken = replace(entry, files=(first, replace(second, checksum="md5:" + "0" * 32)))
    with pytest.raises(PipelineError):
        published.fetch(broken, "voc2007", home / "raw", str(mirror))
    downloads = published.fetch(entry, "voc2007", home / "raw", str(mirror))
    assert home / ".fcos/downloads/voc2007" / first.name in downloads
    assert (mirror / first.name).is_file()


def test_archives_must_not_replace_files_of_each_other(home: Path, tmp_path: Path) -> None:
    for name, content in (("a.zip", "1"), ("b.zip", "2"), ("c.zip", "1")):
        with zipfile.ZipFile(tmp_path / name, "w") as packed:
            packed.writestr("labels/truth.json", content)
            packed.writestr(f"images/{name}.txt", name)
    (tmp_path / "readme.txt").write_text("unchanged")

    def fetch_files(*files: tuple[str, str], into: Path) -> None:
        entry = Entry(
            files=tuple(registry.DataFile(urls=(f"http://host/{name}",), into=folder) for name, folder in files)
        )
        published.fetch(entry, "own", into, str(tmp_path))

    with pytest.raises(PipelineError, match=r"b\.zip: its truth\.json would replace another one in labels; .*`into`"):
        fetch_files(("a.zip", "."), ("b.zip", "."), into=home / "one")
    fetch_files(("a.zip", "."), ("c.zip", "."), ("b.zip", "more/b"), ("readme.txt", "more"), into=home / "two")
    written = sorted(path.relative_to(home / "two").as_posix() for path in (home / "two").rglob("*") if path.is_file())
    assert written == [
        "images/a.zip.txt",
        "images/c.zip.txt",
        "labels/truth.json",
        "more/b/images/b.zip.txt",
        "more/b/labels/truth.json",
        "more/readme.txt",
    ]


ENTRY = """\
files:
- urls: [{address}/BCCD_Dataset-d272fb1.zip]
  checksum: {checksum}
format: voc
splits: {{train: trainval, val: test}}
"""


@pytest.mark.parametrize("download_path", ["data/mine.yaml", "data/custom"])
def test_a_custom_entry_downloads_and_sets_the_splits(
    download_path: str, bccd: Entry, address: str, home: Path, setting: Callable[..., None]
) -> None:
    """The path is that of the entry or of its folder. The splits of the entry apply unless params.yaml sets them."""
    path = home / download_path / "mine.yaml" if download_path == "data/custom" else home / download_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ENTRY.format(address=address, checksum=bccd.files[0].checksum))
    setting(dataset="custom", **{"download.path": download_path})
    download.run(params.load())
    assert list((home / ".fcos/downloads/custom-mine").glob("*.zip")) == []
    assert convert_and_read_sources(home) == {"train": "trainval", "val": "test"}
    setting(**{"convert.train": "train"})
    assert convert_and_read_sources(home) == {"train": "train", "val": "val", "test": "test"}


def convert_and_read_sources(home: Path) -> dict[str, str]:
    """Converts the data set and returns the source split of each split."""
    convert_stage.run(params.load())
    report = json.loads((home / "data/unified/report.json").read_text())
    return {split: summary["source"] for split, summary in report["splits"].items()}


def test_an_entry_tracked_by_git_works_in_a_temporary_workspace(
    bccd: Entry, address: str, home: Path, tmp_path: Path, setting: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "mine.yaml").write_text(ENTRY.format(address=address, checksum=bccd.files[0].checksum))
    setting(dataset="custom", **{"download.path": "mine.yaml"})
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    download.run(params.load())
    assert (home / "data/raw/custom" / registry.ENTRY_COPY).is_file()
    assert (tmp_path / ".fcos/downloads/custom-mine").is_dir()
