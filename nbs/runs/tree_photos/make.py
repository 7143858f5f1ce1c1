"""Make the JPEG copies beside this file, and the tile that the tests use, from the wheel's photographs.

    python nbs/runs/tree_photos/make.py

Needs the photographs in the cache, or a network: detr_lit.datasets.tree_files fetches them.
"""
import shutil
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from detr_lit.datasets import TREES_CREDIT, boxes_in, read_voc, tree_files

HERE = Path(__file__).parent
TESTS = HERE.parents[2] / "tests" / "data"
TILE = (2080, 1040, 2288, 1248)          # x0, y0, x1, y1 in the training photograph


def voc(name, size, boxes):
    "A Pascal VOC file: pixels counted from 1, the last one included."
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = name
    node = ElementTree.SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (*size, 3)):
        ElementTree.SubElement(node, tag).text = str(value)
    for x0, y0, x1, y1 in boxes:
        obj = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(obj, "name").text = "Tree"
        node = ElementTree.SubElement(obj, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1)):
            ElementTree.SubElement(node, tag).text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def main():
    files = tree_files()
    licence = next(iter(files.values()))[0].with_name("LICENSE.txt").read_text()
    credit = f"{TREES_CREDIT}Changed here: {{}}.\n\nThe licence of deepforest:\n\n{licence}"
    (HERE / "trees").mkdir(exist_ok=True)
    for photo, xml in files.values():
        Image.open(photo).convert("RGB").save(HERE / "trees" / f"{photo.stem}.jpg", quality=60, optimize=True)
        shutil.copyfile(xml, HERE / "trees" / xml.name)
    (HERE / "trees" / "CREDIT.txt").write_text(credit.format("the PNG files were saved as JPEG, quality 60"))

    photo, xml = files["train"]
    side = TILE[2] - TILE[0]
    boxes = (boxes_in(TILE, read_voc(xml)[0])[0] * side).round().int().tolist()
    TESTS.mkdir(parents=True, exist_ok=True)
    Image.open(photo).convert("RGB").crop(TILE).save(TESTS / "tree_tile.jpg", quality=85, optimize=True)
    (TESTS / "tree_tile.xml").write_text(voc("tree_tile.jpg", (side, side), boxes))
    (TESTS / "tree_tile.CREDIT.txt").write_text(credit.format(f"pixels {TILE} of {photo.name}, saved as JPEG"))


if __name__ == "__main__":
    main()
