"""Small archives of noise images in the layouts of the registry's data sets, with folders and names as published."""

import hashlib
import json
import shutil
import tarfile
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.datasets.registry import Entry

SIZE = (48, 40)
Files = dict[str, bytes]


def jpeg(seed: int, format: str = "JPEG") -> bytes:
    content = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format)
    return content.getvalue()


def voc_xml(name: str, folder: str, label: str) -> bytes:
    """An annotation as in the devkit: the object has a part, and a coordinate is not a whole number."""
    box = "<bndbox><xmin>8</xmin><ymin>5.5</ymin><xmax>40</xmax><ymax>36</ymax></bndbox>"
    part = "<part><name>head</name><bndbox><xmin>9</xmin><ymin>6</ymin><xmax>12</xmax><ymax>9</ymax></bndbox></part>"
    return (
        f"<annotation><folder>{folder}</folder><filename>{name}.jpg</filename>"
        f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        f"<object><name>{label}</name><difficult>0</difficult>{box}{part}</object></annotation>"
    ).encode()


def voc(top: str, label: str, splits: dict[str, list[str]], first: int = 0) -> Files:
    files: Files = {}
    for seed, name in enumerate(sorted({name for split_names in splits.values() for name in split_names}), first):
        files[f"{top}/Annotations/{name}.xml"] = voc_xml(name, top.rsplit("/", 1)[-1], label)
        files[f"{top}/JPEGImages/{name}.jpg"] = jpeg(seed)
    for split, split_names in splits.items():
        files[f"{top}/ImageSets/Main/{split}.txt"] = "".join(f"{name}\n" for name in split_names).encode()
        files[f"{top}/ImageSets/Main/dog_{split}.txt"] = "".join(f"{name} -1\n" for name in split_names).encode()
    return files


def split_halves(*names: str) -> dict[str, list[str]]:
    return {"train": [names[0]], "val": [names[1]], "trainval": list(names)}


def coco(year: int, digits: int) -> dict[str, Files]:
    def name(split: str, number: int) -> str:
        return f"COCO_{split}_{number:0{digits}d}.jpg" if year == 2014 else f"{number:0{digits}d}.jpg"

    archives: dict[str, Files] = {f"annotations_trainval{year}.zip": {}}
    for number, split in enumerate((f"train{year}", f"val{year}"), 139):
        image = {"id": number, "file_name": name(split, number), "width": SIZE[0], "height": SIZE[1], "license": 1}
        box = {"id": 1768 + number, "image_id": number, "category_id": 18, "bbox": [7.5, 5, 30, 31.25]}
        extra_fields = {"area": 702.1, "iscrowd": 0, "segmentation": [[7.5, 5, 37.5, 5, 37.5, 36.25]]}
        categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
        ground_truth = {"images": [image], "annotations": [box | extra_fields], "categories": categories}
        archives[f"{split}.zip"] = {f"{split}/{image['file_name']}": jpeg(number)}
        annotation_files = archives[f"annotations_trainval{year}.zip"]
        annotation_files[f"annotations/instances_{split}.json"] = json.dumps(ground_truth).encode()
        annotation_files[f"annotations/captions_{split}.json"] = json.dumps(
            {"images": [image], "annotations": []}
        ).encode()
        annotation_files[f"annotations/person_keypoints_{split}.json"] = json.dumps(ground_truth).encode()
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
    "VOCtrainval_06-Nov-2007.tar": voc("VOCdevkit/VOC2007", "dog", split_halves("000005", "000007"), 10),
    "VOCtest_06-Nov-2007.tar": voc("VOCdevkit/VOC2007", "cat", {"test": ["000001"]}, 20),
    "VOCtrainval_11-May-2012.tar": voc("VOCdevkit/VOC2012", "dog", split_halves("2008_000002", "2008_000003"), 30),
}
# The published archives of each data set by name, and the files in each.
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
# The images of each split after conversion, by the last three characters of their stems.
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


def small(entry: Entry, mirror: Path) -> Entry:
    """The entry, with the sizes and checksums of the mirror's small files."""
    files = []
    for file in entry.files:
        content = (mirror / file.name).read_bytes()
        files.append(replace(file, size=len(content), checksum=f"sha256:{hashlib.sha256(content).hexdigest()}"))
    return replace(entry, files=tuple(files))
