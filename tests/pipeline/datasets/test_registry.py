"""Every entry's whole way, from a mirror on the loopback that has small files in the data set's true layout."""

import hashlib
import json
import re
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcos.detector import Detector
from fcos.training.history import Row
from pipeline import annotations, params
from pipeline.cli import main
from pipeline.conversion import convert
from pipeline.datasets import published, registry
from pipeline.datasets.registry import Entry
from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.stages import convert as converting
from pipeline.stages import download
from pipeline.training import make_batches, make_trainer

REPOSITORY = Path(__file__).resolve().parents[3]
SIZE = (48, 40)
Files = dict[str, bytes]


def jpeg(seed: int, format: str = "JPEG") -> bytes:
    from io import BytesIO

    content = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format)
    return content.getvalue()


def voc_xml(name: str, folder: str, label: str) -> bytes:
    """As the devkit has it: a part within the object, and a coordinate that is no whole number."""
    box = "<bndbox><xmin>8</xmin><ymin>5.5</ymin><xmax>40</xmax><ymax>36</ymax></bndbox>"
    part = "<part><name>head</name><bndbox><xmin>9</xmin><ymin>6</ymin><xmax>12</xmax><ymax>9</ymax></bndbox></part>"
    return (
        f"<annotation><folder>{folder}</folder><filename>{name}.jpg</filename>"
        f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        f"<object><name>{label}</name><difficult>0</difficult>{box}{part}</object></annotation>"
    ).encode()


def voc(top: str, label: str, splits: dict[str, list[str]], first: int = 0) -> Files:
    files: Files = {}
    for seed, name in enumerate(sorted({name for listed in splits.values() for name in listed}), first):
        files[f"{top}/Annotations/{name}.xml"] = voc_xml(name, top.rsplit("/", 1)[-1], label)
        files[f"{top}/JPEGImages/{name}.jpg"] = jpeg(seed)
    for split, listed in splits.items():
        files[f"{top}/ImageSets/Main/{split}.txt"] = "".join(f"{name}\n" for name in listed).encode()
        files[f"{top}/ImageSets/Main/dog_{split}.txt"] = "".join(f"{name} -1\n" for name in listed).encode()
    return files


def halves(*names: str) -> dict[str, list[str]]:
    return {"train": [names[0]], "val": [names[1]], "trainval": list(names)}


def coco(year: int, digits: int) -> dict[str, Files]:
    def name(split: str, number: int) -> str:
        return f"COCO_{split}_{number:0{digits}d}.jpg" if year == 2014 else f"{number:0{digits}d}.jpg"

    archives: dict[str, Files] = {f"annotations_trainval{year}.zip": {}}
    for number, split in enumerate((f"train{year}", f"val{year}"), 139):
        image = {"id": number, "file_name": name(split, number), "width": SIZE[0], "height": SIZE[1], "license": 1}
        box = {"id": 1768 + number, "image_id": number, "category_id": 18, "bbox": [7.5, 5, 30, 31.25]}
        more = {"area": 702.1, "iscrowd": 0, "segmentation": [[7.5, 5, 37.5, 5, 37.5, 36.25]]}
        categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
        truth = {"images": [image], "annotations": [box | more], "categories": categories}
        archives[f"{split}.zip"] = {f"{split}/{image['file_name']}": jpeg(number)}
        inside = archives[f"annotations_trainval{year}.zip"]
        inside[f"annotations/instances_{split}.json"] = json.dumps(truth).encode()
        inside[f"annotations/captions_{split}.json"] = json.dumps({"images": [image], "annotations": []}).encode()
        inside[f"annotations/person_keypoints_{split}.json"] = json.dumps(truth).encode()
    return archives


def pennfudan() -> Files:
    files: Files = {"PennFudanPed/readme.txt": b"1. Directory structure:\n", "PennFudanPed/added-object-list.txt": b""}
    for seed, name in enumerate(("FudanPed00001", "FudanPed00002", "PennPed00001")):
        label = "PASpersonWalking" if name.startswith("Fudan") else "PASpersonStanding"
        image, mask = f"PennFudanPed/PNGImages/{name}.png", f"PennFudanPed/PedMasks/{name}_mask.png"
        files[image], files[mask] = jpeg(seed, "PNG"), jpeg(seed + 10, "PNG")
        lines = [
            "# Compatible with PASCAL Annotation Version 1.00",
            f'Image filename : "{image}"',
            f"Image size (X x Y x C) : {SIZE[0]} x {SIZE[1]} x 3",
            'Database : "The Penn-Fudan-Pedestrian Database"',
            f'Objects with ground truth : 1 {{ "{label}" }}',
            "# Top left pixel co-ordinates : (1, 1)",
            f'# Details for pedestrian 1 ("{label}")',
            f'Original label for object 1 "{label}" : "PennFudanPed"',
            f'Bounding box for object 1 "{label}" (Xmin, Ymin) - (Xmax, Ymax) : (8, 5) - (40, 36)',
            f'Pixel mask for object 1 "{label}" : "{mask}"',
        ]
        files[f"PennFudanPed/Annotation/{name}.txt"] = "\r\n".join(lines).encode()
    return files


def bccd(top: str) -> Files:
    splits = {"train": ["BloodImage_00001"], "val": ["BloodImage_00000"], "test": ["BloodImage_00007"]}
    files = voc(f"{top}/BCCD", "WBC", splits | {"trainval": ["BloodImage_00000", "BloodImage_00001"]})
    return files | {f"{top}/example.jpg": jpeg(90), f"{top}/test.csv": b"filename,cell_type,xmin,xmax,ymin,ymax\n"}


def raccoon(top: str) -> Files:
    files = {f"{top}/data/raccoon_labels.csv": b"filename,width,height,class,xmin,ymin,xmax,ymax\n"}
    for number in range(1, 8):
        files[f"{top}/annotations/raccoon-{number}.xml"] = voc_xml(f"raccoon-{number}", "images", "raccoon")
        files[f"{top}/images/raccoon-{number}.jpg"] = jpeg(number)
    return files


VOC = {
    "VOCtrainval_06-Nov-2007.tar": voc("VOCdevkit/VOC2007", "dog", halves("000005", "000007"), 10),
    "VOCtest_06-Nov-2007.tar": voc("VOCdevkit/VOC2007", "cat", {"test": ["000001"]}, 20),
    "VOCtrainval_11-May-2012.tar": voc("VOCdevkit/VOC2012", "dog", halves("2008_000002", "2008_000003"), 30),
}
# Each data set as its publishers pack it: archives by name, and what is in them.
LAYOUTS: dict[str, dict[str, Files]] = {
    "coco2017": coco(2017, 12),
    "coco2014": coco(2014, 12),
    "voc2007": {name: files for name, files in VOC.items() if "2007" in name},
    "voc2012": {name: files for name, files in VOC.items() if "2012" in name},
    "voc0712": VOC,
    "voc0712_keras_fcos": VOC,
    "bccd": {"BCCD_Dataset-d272fb1.zip": bccd("BCCD_Dataset-d272fb14cdff6e473fafeeeba32aba5f560e9e43")},
    "raccoon": {"raccoon_dataset-9393884.zip": raccoon("raccoon_dataset-93938849301895fb73909842ba04af9b602f677a")},
    "pennfudan": {"PennFudanPed.zip": pennfudan()},
}
# What comes of it: the images of each split, by the ends of their names.
SPLITS = {
    "coco2017": {"train": ["139"], "val": ["140"]},
    "coco2014": {"train": ["139"], "val": ["140"]},
    "voc2007": {"train": ["005", "007"], "val": ["001"]},
    "voc2012": {"train": ["002"], "val": ["003"]},
    "voc0712": {"train": ["005", "007", "002", "003"], "val": ["001"]},
    "voc0712_keras_fcos": {"train": ["005", "002", "003"], "val": ["007"], "test": ["001"]},
    "bccd": {"train": ["001"], "val": ["000"], "test": ["007"]},
}


def pack(archives: dict[str, Files], folder: Path) -> None:
    for name, files in archives.items():
        if name.endswith(".zip"):
            with zipfile.ZipFile(folder / name, "w") as packed:
                for path, content in files.items():
                    packed.writestr(path, content)
        else:
            unpacked = folder / "unpacked"
            for path, content in files.items():
                (unpacked / path).parent.mkdir(parents=True, exist_ok=True)
                (unpacked / path).write_bytes(content)
            with tarfile.open(folder / name, "w") as tar:
                tar.add(unpacked / "VOCdevkit", "VOCdevkit")
            shutil.rmtree(unpacked)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mirror")
    for archives in LAYOUTS.values():
        pack(archives, folder)
    return folder


@pytest.fixture(scope="module")
def address(mirror: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(mirror)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def small(entry: Entry, mirror: Path) -> Entry:
    """The entry, with the sizes and checksums of the mirror's small files."""
    files = []
    for file in entry.files:
        content = (mirror / file.name).read_bytes()
        files.append(replace(file, size=len(content), checksum=f"sha256:{hashlib.sha256(content).hexdigest()}"))
    return replace(entry, files=tuple(files))


def one_step(values: Params, split: annotations.AnnotationSet, raw: Path) -> Row:
    class Silent:
        def stepped(self, row: Row, images: int) -> None: ...

        def validated(self, row: Row) -> None: ...

    def validate(_: Detector) -> Row:
        return {}

    train = replace(values.train, device="cpu", epochs=1, batch_size=8, size=(64, 64), warmup=0.0, ema=0.0)
    values = replace(values, model=replace(values.model, channels=8), train=train)
    batches = make_batches(values, split, raw)
    trainer = make_trainer(
        values,
        batches=batches,
        validate=validate,
        classes=len(split.categories),
        watcher=Silent(),
        checkpoint=None,
    )
    (step,) = trainer.fit().steps
    return step


@pytest.mark.parametrize("name", registry.names())
def test_whole_way(name: str, mirror: Path, address: str, home: Path) -> None:
    entry, raw = small(registry.find(name), mirror), home / "data/raw" / name
    spent = published.fetch(entry, name, raw, address)
    assert sorted(path.name for path in spent) == sorted([".fetched", *LAYOUTS[name]])
    values = params.load()
    options = registry.with_splits(values.convert, registry.describing(name, raw))
    report = convert(raw, home / "unified", options, entry.format)
    found = {split: annotations.read(home / f"unified/{split}.json") for split in report["splits"]}
    ends = {split: [Path(image.file_name).stem[-3:] for image in read.images] for split, read in found.items()}
    if name in SPLITS:
        assert {split: sorted(names) for split, names in ends.items()} == {
            split: sorted(names) for split, names in SPLITS[name].items()
        }
    assert sum(len(read.annotations) for read in found.values()) == sum(map(len, ends.values()))
    step = one_step(values, found["train"], raw)
    assert step["positives"] > 0
    assert np.isfinite(step["total"])


@pytest.mark.parametrize("name", registry.names())
def test_an_entry_says_everything(name: str) -> None:
    entry = registry.find(name)
    assert set(LAYOUTS[name]) == {file.name for file in entry.files}
    assert entry.title
    assert entry.homepage
    assert entry.licence != "not stated"
    assert entry.citation
    assert entry.images
    assert entry.format != "auto"
    written = yaml.safe_load((registry.FOLDER / f"{name}.yaml").read_text())
    assert all({"name", "urls", "size", "checksum"} <= set(file) for file in written["files"])


def test_one_archive_is_the_same_wherever_it_stands() -> None:
    seen: dict[str, Any] = {}
    for name in registry.names():
        for file in registry.find(name).files:
            assert seen.setdefault(file.name, file) == file


@pytest.fixture
def bccd(mirror: Path) -> Entry:
    return small(registry.find("bccd"), mirror)


def test_a_wrong_file_is_not_unpacked(bccd: Entry, mirror: Path, home: Path) -> None:
    wrong = replace(bccd.files[0], checksum="md5:" + "0" * 32)
    with pytest.raises(PipelineError, match=r"BCCD_Dataset-d272fb1\.zip"):
        published.fetch(replace(bccd, files=(wrong,)), "bccd", home / "raw", str(mirror))
    assert not (home / "raw").exists()


def test_what_a_person_put_there_stays(bccd: Entry, mirror: Path, home: Path) -> None:
    name = bccd.files[0].name
    by_hand = home / ".fcos/downloads/bccd" / name
    by_hand.parent.mkdir(parents=True)
    shutil.copy(mirror / name, by_hand)
    spent = published.fetch(bccd, "bccd", home / "raw", "http://127.0.0.1:9")  # nobody answers there
    assert by_hand not in spent
    assert (home / "raw" / "BCCD_Dataset-d272fb14cdff6e473fafeeeba32aba5f560e9e43/BCCD/JPEGImages").is_dir()


def test_what_an_interrupted_run_fetched_is_ours(mirror: Path, home: Path) -> None:
    entry = small(registry.find("voc2007"), mirror)
    first, second = entry.files
    broken = replace(entry, files=(first, replace(second, checksum="md5:" + "0" * 32)))
    with pytest.raises(PipelineError):
        published.fetch(broken, "voc2007", home / "raw", str(mirror))
    spent = published.fetch(entry, "voc2007", home / "raw", str(mirror))
    assert home / ".fcos/downloads/voc2007" / first.name in spent
    assert (mirror / first.name).is_file()


def test_archives_must_not_write_over_each_other(home: Path, tmp_path: Path) -> None:
    for name, content in (("a.zip", "1"), ("b.zip", "2"), ("c.zip", "1")):
        with zipfile.ZipFile(tmp_path / name, "w") as packed:
            packed.writestr("labels/truth.json", content)
            packed.writestr(f"images/{name}.txt", name)
    (tmp_path / "readme.txt").write_text("as it is")

    def get(*files: tuple[str, str], into: Path) -> None:
        entry = Entry(
            files=tuple(registry.DataFile(urls=(f"http://host/{name}",), into=folder) for name, folder in files)
        )
        published.fetch(entry, "own", into, str(tmp_path))

    with pytest.raises(PipelineError, match=r"b\.zip: its truth\.json would replace another one in labels; .*`into`"):
        get(("a.zip", "."), ("b.zip", "."), into=home / "one")
    get(("a.zip", "."), ("c.zip", "."), ("b.zip", "more/b"), ("readme.txt", "more"), into=home / "two")
    found = sorted(path.relative_to(home / "two").as_posix() for path in (home / "two").rglob("*") if path.is_file())
    assert found == [
        "images/a.zip.txt",
        "images/c.zip.txt",
        "labels/truth.json",
        "more/b/images/b.zip.txt",
        "more/b/labels/truth.json",
        "more/readme.txt",
    ]


OWN = """\
files:
- urls: [{address}/BCCD_Dataset-d272fb1.zip]
  checksum: {checksum}
format: voc
splits: {{train: trainval, val: test}}
"""


@pytest.mark.parametrize("where", ["data/mine.yaml", "data/custom"])
def test_an_entry_of_ones_own(where: str, bccd: Entry, address: str, home: Path, setting: Callable[..., None]) -> None:
    """By its path, or alone in data/custom. Its downloads go; its splits hold where params.yaml names none."""
    path = home / where / "mine.yaml" if where == "data/custom" else home / where
    path.parent.mkdir(parents=True)
    path.write_text(OWN.format(address=address, checksum=bccd.files[0].checksum))
    setting(dataset="custom", **{"download.path": where})
    download.body(params.load())
    assert list((home / ".fcos/downloads/mine").glob("*.zip")) == []
    assert sources(home) == {"train": "trainval", "val": "test"}
    setting(**{"convert.train": "train"})
    assert sources(home) == {"train": "train", "val": "val", "test": "test"}


def sources(home: Path) -> dict[str, str]:
    """Converts, and tells from which of the data set's own splits each came."""
    converting.body(params.load())
    report = json.loads((home / "data/unified/report.json").read_text())
    return {split: found["source"] for split, found in report["splits"].items()}


def test_an_entry_that_git_has_works_in_a_temporary_workspace(
    bccd: Entry, address: str, home: Path, tmp_path: Path, setting: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "mine.yaml").write_text(OWN.format(address=address, checksum=bccd.files[0].checksum))
    setting(dataset="custom", **{"download.path": "mine.yaml"})
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    download.body(params.load())
    assert (home / "data/raw/custom" / registry.OWN).is_file()
    assert (tmp_path / ".fcos/downloads/mine").is_dir()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("files: []", "files is [], but should be "),
        ("files: [{urls: [ftp://a/b.zip]}]", "files.1.urls.1 is 'ftp://a/b.zip', but should be an address, http"),
        ("files: [{urls: [http://a/]}]", "files.1: name: '' is no file name"),
        ("files: [{urls: [http://a/b.zip], name: ../b}]", "files.1: name: '../b' is no file name"),
        ("files: [{urls: [http://a/b.zip], into: ../b}]", "files.1: into: '../b' leaves the data set's folder"),
        ("files: [{urls: [http://a/b.zip], size: '7'}]", "files.1.size is '7', but should be a valid integer"),
        ("files: [{urls: [http://a/b.zip], checksum: abc}]", "files.1.checksum is 'abc', but should be md5:…, sha1"),
        ("files: [{urls: [http://a/b.zip], sise: 7}]", "files.1.sise is not a key; known ones: urls, name, size"),
        ("files: [{urls: [http://a/b.zip]}, {urls: [http://b/b.zip]}]", "files: 'b.zip' is there twice"),
        ("files: [{urls: [http://a/b.zip]}]\nsplits: {training: a}", "splits.training is not a key; known ones: train"),
        ("files: [{urls: [http://a/b.zip]}]\nsplits: a", "splits is 'a', but should have the keys train, val, test"),
        ("files: [{urls: [http://a/b.zip]}]\nformat: cocoa", "format: 'cocoa' is not known; known ones: auto, coco"),
        ("title: nothing", "files is missing"),
        ("licens: MIT", "licens is not a key; known ones: files, title"),
        ("- a list", "it is ['a list'], but should have the keys files"),
        ("", "it is None, but should have the keys files"),
        ("title: a\ntitle: b", 'not YAML: found duplicate key "title" with value "b"'),
        ("files: [", "not YAML: "),
        ("!!python/object:os.system {}", ""),
        ("? [a, b]\n: c", "keys should be words"),
        ("files: &a [*a]", "keys should be words"),
        ("files: [{urls: ['http://[a/b.zip']}]", "files.1: Invalid IPv6 URL"),
        ("title: \x00", "not YAML: "),
    ],
)
def test_wrong_entries_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        registry.read(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


WORDS = st.sampled_from(
    ["files", "urls", "name", "size", "checksum", "into", "splits", "train", "title", "format", "x"]
)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just("http://a/b.zip"))
ANYTHING = st.recursive(VALUES, lambda some: st.lists(some, max_size=3) | st.dictionaries(WORDS, some, max_size=4))


@given(ANYTHING)
@settings(max_examples=60, deadline=None)
def test_whatever_an_entry_holds(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True))
    with suppress(PipelineError):  # and no other
        assert registry.read(path).files


def test_an_unknown_data_set_lists_the_known(home: Path, setting: Callable[..., None]) -> None:
    setting(dataset="coco")
    known = re.escape(", ".join(["digits", "custom", "fiftyone:NAME", *registry.names()]))
    with pytest.raises(PipelineError, match=f"^dataset: 'coco' is not known; known ones: {known} "):
        download.body(params.load())
    assert list((home / "data/raw").iterdir()) == []


def fcos(*arguments: str) -> tuple[int, str]:
    answer = CliRunner().invoke(main, ["datasets", *arguments])
    return answer.exit_code, answer.output


def test_command_lists_the_data_sets() -> None:
    code, output = fcos()
    assert code == 0
    names = [line.split()[0] for line in output.splitlines()]
    assert names == ["digits", "custom", "fiftyone:NAME", *registry.names()]
    assert re.search(r"^coco2017 +123,287 images +20\.41 GB  COCO 2017, .* \(annotations: CC BY", output, re.MULTILINE)
    assert re.search(r"^bccd +364 images +size unknown  BCCD, ", output, re.MULTILINE)


def test_command_shows_an_entry(tmp_path: Path) -> None:
    code, output = fcos("voc0712")
    assert code == 0
    assert "International Journal of Computer Vision" in output
    assert "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb" in output
    own = tmp_path / "own.yaml"
    own.write_text("files: [{urls: [http://a/b.zip]}]\n")
    assert fcos(str(own)) == (0, own.read_text())
    assert fcos("digits") == (0, "digits: handwritten digits over photographs, made on the spot\n")
    code, output = fcos("voc")
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("fcos: dataset: 'voc' is not known; known ones: digits, ")


def rows(name: str) -> set[str]:
    """What docs/datasets.md says of an entry, and of each of its files."""
    entry = registry.find(name)
    splits = [f"{split} `{own}`" for split, own in vars(entry.splits).items() if own]
    chosen = ", ".join(splits) or "none of its own: `convert.val_fraction`"
    files = ", ".join(f"`{file.name}`" for file in entry.files)
    about = f"[{entry.title}]({entry.homepage})"
    found = {f"| `{name}` | {about} | {entry.images:,} | {chosen} | {entry.licence} | {files} |"}
    for file in entry.files:
        addresses = ", ".join(f"[{number}]({url})" for number, url in enumerate(file.urls, 1))
        size = f"{file.size:,}" if file.size else "none published"
        checksum = f"`{file.checksum}`" if file.checksum else "none published"
        found.add(f"| `{file.name}` | {size} | {checksum} | {addresses} |")
    return found


def test_docs_have_the_tables() -> None:
    section = (REPOSITORY / "docs/datasets.md").read_text().split("\n## Data sets by name\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(?!dataset).*$", section, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == set().union(*(rows(name) for name in registry.names()))
