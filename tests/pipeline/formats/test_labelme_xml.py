from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import labelme_xml, recognize

Write = Callable[..., Path]
POLYGON = "<polygon><pt><x>3</x><y>4</y></pt><pt><x>9.5</x><y>4</y></pt><pt><x>6</x><y>\n11\n</y></pt></polygon>"
MASK = "<segm><box><xmin>5</xmin><ymin>6</ymin><xmax>15</xmax><ymax>16</ymax></box><mask>1.png</mask></segm>"


def labelme_object(shape: str, name: str = "cat", deleted: int = 0) -> str:
    return f"<object><name>\n{name}\n</name><deleted>{deleted}</deleted>{shape}</object>"


@pytest.fixture
def write(tmp_path: Path, picture: Write) -> Callable[..., None]:
    """Writes an image and its annotation, in LabelMe's own folders."""

    def write_annotation(*objects: str, name: str = "north/1", filename: str = "1.png") -> None:
        picture(tmp_path / "Images" / f"{name}.png")
        path = tmp_path / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = "<imagesize><nrows>30</nrows><ncols>40</ncols></imagesize>"
        folder = f"<folder>{Path(name).parent}</folder>"
        content = f"<annotation><filename>{filename}</filename>{folder}{size}{''.join(objects)}</annotation>"
        path.write_text(content)

    return write_annotation


def test_polygons_masks_and_deleted_objects(tmp_path: Path, write: Callable[..., None]) -> None:
    write(labelme_object(POLYGON), labelme_object(POLYGON, deleted=1), labelme_object(MASK, "license  plate"))
    assert recognize(tmp_path) == "labelme_xml"
    found = labelme_xml.read(tmp_path)
    [image] = found.splits["all"].images
    assert (image.file, image.declared_size) == ("Images/north/1.png", (40, 30))
    assert [(item.class_name, item.box) for item in image.objects] == [
        ("cat", (3.0, 4.0, 6.5, 7.0)),
        ("license plate", (5.0, 6.0, 10.0, 10.0)),
    ]
    assert found.remarks == (
        "1 object drawn as masks alone, with the masks' boxes: Annotations/north/1.xml: object 3",
        "1 deleted object left out",
    )


def test_folders_without_objects_and_renamed_images(tmp_path: Path, write: Callable[..., None]) -> None:
    write()
    write(labelme_object(POLYGON), name="south/2", filename="before.png")
    assert recognize(tmp_path) == "labelme_xml"
    found = labelme_xml.read(tmp_path)
    assert {name: [image.file for image in split.images] for name, split in found.splits.items()} == {
        "north": ["Images/north/1.png"],
        "south": ["Images/south/2.png"],
    }


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("<polygon><pt><x>1</x><y>2</y></pt><pt><x>5</x><y>6</y></pt></polygon>", "no area: a polygon of 2 points"),
        ("<polygon><pt><x>1</x><y>up</y></pt></polygon>", "not a number"),
        ("<segm><mask>1.png</mask></segm>", "neither a <polygon> nor a <segm> with a <box>"),
        ("", "neither a <polygon>"),
    ],
)
def test_invalid_objects(tmp_path: Path, write: Callable[..., None], shape: str, message: str) -> None:
    write(labelme_object(POLYGON), labelme_object(shape), labelme_object(POLYGON, name=" "))
    good, bad, unnamed = labelme_xml.read(tmp_path).splits["all"].images[0].objects
    assert good.issue is None
    assert bad.issue is not None
    assert message in bad.issue.message
    assert unnamed.issue is not None
    assert unnamed.issue.message == "has no <name>"


def test_beside_voc_annotations(tmp_path: Path, write: Callable[..., None], voc_xml: Write) -> None:
    write(labelme_object(POLYGON))
    voc_xml(tmp_path / "more" / "a.xml", [("cat", 1, 2, 3, 4)])
    with pytest.raises(PipelineError, match=r"several formats: voc .* and labelme_xml"):
        recognize(tmp_path)


def test_damaged_files_are_reported(tmp_path: Path, write: Callable[..., None]) -> None:
    write(labelme_object(POLYGON))
    (tmp_path / "Annotations/north/2.xml").write_text("<annotation><object>")
    codes = [image.issue and image.issue.code for image in labelme_xml.read(tmp_path).splits["all"].images]
    assert codes == [None, "invalid_xml"]
