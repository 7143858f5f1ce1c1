"""Data sets with one thing wrong each: the rows of tests/test_malformed.py, and of the table on the page nbs/21_your_data.

A row says what is broken and how, which file `check_data` must name, what it must say, and what a training does about it.
"""
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

from detr_lit.folders import BLACK, CUT, NO_IMAGE, NO_OBJECT, OWN_SIZE, STOPS
from detr_lit.voc import write_voc

CATEGORIES = {9: "bird", 2: "cat", 5: "dog"}
H, W, IMAGES, HELD = 30, 40, 12, 4
BOXES = ((3, 4, 20, 12), (10, 10, 25, 18), (1, 2, 38, 27))                       # x, y, width, height
NAMES = ("bird", "cat", "dog")
TRAIN, VAL = "annotations/instances_train.json", "annotations/instances_val.json"
XML = "VOCdevkit/VOC2007/Annotations/trainval_000003.xml"
LISTED = "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
JPG = "VOCdevkit/VOC2007/JPEGImages/trainval_000003.jpg"


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)


def make_coco(root: Path) -> Path:
    "12 photographs to train on and 4 held out, of three objects each; ids with gaps."
    (root / "annotations").mkdir(parents=True)
    for part, n in (("train", IMAGES), ("val", HELD)):
        (root / part).mkdir()
        images, rows = [], []
        for k in range(n):
            Image.fromarray(pixels(k + 100 * (part == "val"))).save(root / part / f"{k}.png")
            images.append(dict(id=10 + 3 * k, file_name=f"{k}.png", height=H, width=W))
            for c, (x, y, w, h) in zip(CATEGORIES, BOXES):
                box = [x, y, w - k % 3, h - k % 2]
                rows.append(dict(id=len(rows) + 1, image_id=10 + 3 * k, category_id=c, bbox=box, area=box[2] * box[3], iscrowd=0))
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(dict(
            images=images, annotations=rows, categories=[dict(id=k, name=n) for k, n in CATEGORIES.items()])))
    return root


def make_voc(root: Path) -> Path:
    "The same with XML files."
    for name, n, first in (("trainval", IMAGES, 0), ("test", HELD, 100)):
        write_voc(root, [(torch.from_numpy(pixels(first + k)).permute(2, 0, 1), dict(
            boxes=torch.tensor([[x, y, x + w - k % 3, y + h - k % 2] for x, y, w, h in BOXES]).float(),
            labels=torch.tensor([1, 2, 3]))) for k in range(n)], NAMES, name=name)
    return root


def make_pairs(root: Path) -> list:
    "The same as a list of (image, target)."
    boxes = torch.tensor([[(x + w / 2) / W, (y + h / 2) / H, w / W, h / H] for x, y, w, h in BOXES])
    return [(torch.from_numpy(pixels(k)).permute(2, 0, 1) / 255, dict(boxes=boxes.clone(), labels=torch.tensor([1, 2, 3])))
            for k in range(IMAGES)]


MAKE = dict(COCO=make_coco, VOC=make_voc, pairs=make_pairs)
_whole: dict[str, Path] = {}


def whole(form: str, root: Path) -> Path | list:
    "A data set of a form with nothing wrong in it; folders are made once and copied."
    if form == "pairs": return make_pairs(root)
    if form not in _whole: _whole[form] = MAKE[form](Path(tempfile.mkdtemp()) / form)
    return Path(shutil.copytree(_whole[form], root, dirs_exist_ok=True))


@dataclass(frozen=True)
class Row:
    """form: COCO, VOC or pairs. broken: what, in words. breaks: does it to a whole data set. file: the end of the name that
    must be named. says: a part of what the check says. then: what a training does."""
    form: str
    broken: str
    breaks: Callable
    file: str
    says: str
    then: str

    def make(self, root: Path) -> Path | list:
        "The broken data set, in a folder that is not there yet."
        data = whole(self.form, root)
        self.breaks(data)
        return data


def edit(change: Callable, file: str = TRAIN) -> Callable:
    "Change the contents of a JSON file."
    def breaks(root: Path) -> None:
        coco = json.loads((root / file).read_text())
        change(coco)
        (root / file).write_text(json.dumps(coco))
    return breaks


def put(key: str, k: int, **values) -> Callable:
    "Give a row of a COCO list other values; None takes one away."
    def change(coco: dict) -> None:
        coco[key][k] |= values
        for name, value in values.items():
            if value is None: del coco[key][k][name]
    return edit(change)


def every(key: str, change: Callable) -> Callable:
    return edit(lambda coco: [row.update(change(row)) for row in coco[key]])


def write(file: str, data: bytes | str) -> Callable:
    return lambda root: (root / file).write_bytes(data.encode() if isinstance(data, str) else data)


def cut(file: str, part: float = .5) -> Callable:
    return lambda root: (root / file).write_bytes((data := (root / file).read_bytes())[:int(len(data) * part)])


def remove(*files: str) -> Callable:
    return lambda root: [(root / f).unlink() for f in files]


def text(old: str, new: str, file: str = XML) -> Callable:
    "Replace in a text file; what is replaced must be there."
    def breaks(root: Path) -> None:
        said = (root / file).read_text()
        assert old in said, (old, said)
        (root / file).write_text(said.replace(old, new, 1))
    return breaks


def as_photo(make: Callable, file: str = "train/3.png", kind: str = "PNG", **options) -> Callable:
    "Another picture in place of a photograph."
    def breaks(root: Path) -> None:
        held = io.BytesIO()
        make(Image.fromarray(pixels(3))).save(held, kind, **options)
        (root / file).write_bytes(held.getvalue())
    return breaks


def tag(way: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = way
    return exif


def both(*breaks: Callable) -> Callable:
    return lambda root: [b(root) for b in breaks]


def item(k: int, **values) -> Callable:
    "Other values in an item's target; `image` changes the image."
    def breaks(pairs: list) -> None:
        image, target = pairs[k]
        change = values.get("image", lambda x: x)
        pairs[k] = (change(image), target | {key: v(target[key]) for key, v in values.items() if key != "image"})
    return breaks


def first_box(change: Callable) -> Callable:
    "A function of boxes that changes the first."
    def of(boxes: torch.Tensor) -> torch.Tensor:
        boxes = boxes.clone()
        boxes[0] = change(boxes[0])
        return boxes
    return of


BOX0 = "<xmin>4</xmin><ymin>5</ymin><xmax>23</xmax><ymax>15</ymax>"             # the first object of XML


def box0(x0, y0, x1, y1) -> Callable:
    return text(BOX0, f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>")


def coco(broken, breaks, says, then, file=TRAIN): return Row("COCO", broken, breaks, file, says, then)
def voc(broken, breaks, says, then, file=XML): return Row("VOC", broken, breaks, file, says, then)
def pairs(broken, breaks, says, file="item 3"): return Row("pairs", broken, breaks, file, says, STOPS)


ROWS = [
    # the file as a whole
    coco("a JSON file that stops half-way", cut(TRAIN), "not readable as JSON", STOPS),
    coco("an empty JSON file", write(TRAIN, ""), "not readable as JSON", STOPS),
    coco("a JSON file in no known encoding", write(TRAIN, b'{"images": "\xff\xfe"}'), "not readable as JSON", STOPS),
    coco("brackets without end", write(TRAIN, "[" * 100_000), "not readable as JSON", STOPS),
    coco("a list where an object is wanted", write(TRAIN, "[1, 2]"), "wanted 'images' to be a list", STOPS),
    coco("no list of images", edit(lambda c: c.pop("images")), "wanted 'images' to be a list", STOPS),
    coco("annotations are null", edit(lambda c: c.update(annotations=None)), "wanted 'annotations' to be a list", STOPS),
    coco("no categories", edit(lambda c: c.pop("categories")), "wanted 'categories' to be a list", STOPS),
    coco("an annotation that is a word", edit(lambda c: c["annotations"].append("cat")), "list of objects", STOPS),
    coco("no image in the list", edit(lambda c: c["images"].clear()), "the list 'images' is empty", STOPS),
    coco("no category in the list", edit(lambda c: c["categories"].clear()), "the list 'categories' is empty", STOPS),
    coco("a held-out file that stops half-way", cut(VAL), "not readable as JSON", STOPS, VAL),
    # categories
    coco("a category without id", put("categories", 1, id=None), "a category's id is None", STOPS),
    coco("a category whose id is a word", put("categories", 1, id="2"), "a category's id is '2'", STOPS),
    coco("one id for two names", put("categories", 1, id=9), "category 9 is called both 'bird' and 'cat'", STOPS),
    coco("a category listed twice", edit(lambda c: c["categories"].append(dict(id=9, name="bird"))), "category 9 is listed twice",
         "it counts once"),
    coco("a category without name", put("categories", 1, name=None), "category 2 has no name", "it is called 'category 2'"),
    coco("two categories of one name", edit(lambda c: c["categories"].append(dict(id=11, name="cat"))),
         "two categories are called 'cat'", "one of them is called 'cat (11)'"),
    coco("names that differ in case alone", edit(lambda c: c["categories"].append(dict(id=11, name="Cat"))),
         "class 'Cat' has nearly the name of another one", "they are different classes", ""),
    coco("a class without an object", edit(lambda c: c["categories"].append(dict(id=11, name="yak"))),
         "class 'yak' has no object in train", "it can't be learnt", ""),
    coco("other ids in the held-out file", edit(lambda c: ([r.update(id=1) for r in c["categories"] if r["id"] == 9],
                                                           [r.update(category_id=1) for r in c["annotations"] if r["category_id"] == 9]), VAL),
         "'bird' has the id 1 here, 9 elsewhere", "files are joined by the names of classes", VAL),
    coco("a class that only the held-out file has", edit(lambda c: (c["categories"].append(dict(id=11, name="yak")),
                                                                    c["annotations"][0].update(category_id=11)), VAL),
         "class 'yak' has no object in train", "it can't be learnt", ""),
    # images
    coco("an image without id", put("images", 3, id=None), "an image's id is None", NO_IMAGE),
    coco("two images with one id", put("images", 3, id=10), "two images have the id 10", NO_IMAGE),
    coco("an image without file_name", put("images", 3, file_name=None), "image 19 has no file_name", NO_IMAGE),
    coco("a photograph that is not there", remove("train/3.png"), "it is not there; image 19", NO_IMAGE, "train/3.png"),
    coco("a folder where a photograph is wanted", both(remove("train/3.png"), lambda root: (root / "train/3.png").mkdir()),
         "it is not there; image 19", NO_IMAGE, "train/3.png"),
    coco("two images with one file_name", put("images", 3, file_name="4.png"), "2 images have the same file_name: 4.png", "all are kept"),
    coco("a height that is a word", put("images", 3, height="30"), "the height and width of image 19 are ['30', 40]", OWN_SIZE),
    coco("a width below zero", put("images", 3, width=-40), "the height and width of image 19 are [30, -40]", OWN_SIZE),
    coco("height and width exchanged", put("images", 3, height=W, width=H), "it has 40 x 30 pixels; its annotation wants 30 x 40",
         BLACK, "train/3.png"),
    coco("a photograph resized after it was annotated", as_photo(lambda im: im.resize((20, 15))),
         "it has 20 x 15 pixels; its annotation wants 40 x 30", BLACK, "train/3.png"),
    # objects
    coco("an annotation of no image", put("annotations", 4, image_id=11), "annotation 5: there is no image 11", NO_OBJECT),
    coco("an annotation without image_id", put("annotations", 4, image_id=None), "annotation 5: there is no image None", NO_OBJECT),
    coco("an annotation of no category", put("annotations", 4, category_id=3), "unknown class, there is no category 3", NO_OBJECT),
    coco("a category_id that is a word", put("annotations", 4, category_id="cat"), "unknown class, there is no category 'cat'", NO_OBJECT),
    coco("no bbox", put("annotations", 4, bbox=None), "annotation 5: bbox is None; wanted four finite numbers", NO_OBJECT),
    coco("a bbox of three numbers", put("annotations", 4, bbox=[1, 2, 3]), "bbox is [1, 2, 3]; wanted four", NO_OBJECT),
    coco("a bbox of words", put("annotations", 4, bbox=["1", "2", "3", "4"]), "wanted four finite numbers", NO_OBJECT),
    coco("a bbox with NaN", put("annotations", 4, bbox=[1, 2, float("nan"), 4]), "bbox is [1, 2, nan, 4]; wanted four finite", NO_OBJECT),
    coco("a bbox with Infinity", put("annotations", 4, bbox=[1, 2, float("inf"), 4]), "wanted four finite numbers", NO_OBJECT),
    coco("a bbox with a number of 400 digits", put("annotations", 4, bbox=[1, 2, 10**400, 4]), "wanted four finite numbers", NO_OBJECT),
    coco("a width of 0", put("annotations", 4, bbox=[5, 5, 0, 4]), "wanted a width and a height above 0", NO_OBJECT),
    coco("a height below 0", put("annotations", 4, bbox=[5, 5, 4, -4]), "wanted a width and a height above 0", NO_OBJECT),
    coco("a box outside the image", put("annotations", 4, bbox=[50, 5, 4, 4]), "mostly outside 40 x 30 pixels", NO_OBJECT),
    coco("a box over the border", put("annotations", 4, bbox=[30, 5, 14, 4]), "bbox is [30, 5, 14, 4], image 13 has (40, 30)", CUT),
    coco("corners for a size, once", put("annotations", 4, bbox=[30, 20, 38, 28]), "not corners", NO_OBJECT),
    coco("fractions for pixels, once", put("annotations", 4, bbox=[.1, .2, .3, .4]), "within one pixel; wanted pixels, not fractions", NO_OBJECT),
    coco("corners for sizes, in all boxes", every("annotations", lambda r: dict(bbox=[r["bbox"][0] + 12, r["bbox"][1] + 12, 39, 29])),
         "of 36 objects can't be used as they are", STOPS),
    coco("fractions for pixels, in all boxes", every("annotations", lambda r: dict(bbox=[v / 60 for v in r["bbox"]])),
         "36 of 36 objects can't be used as they are", STOPS),
    coco("two annotations with one id", put("annotations", 4, id=4), "2 annotations have the same id: 4", "all are kept"),
    coco("an object annotated twice", edit(lambda c: c["annotations"].append(c["annotations"][4] | dict(id=99))),
         "have the same image_id, category_id, bbox", "as many boxes asked for"),
    coco("iscrowd is 2", put("annotations", 4, iscrowd=2), "iscrowd is 2; wanted 0 or 1", "it counts as 1"),
    coco("an area below 0", put("annotations", 4, area=-5), "its area is -5", "the box's area is taken"),
    coco("an area of NaN", put("annotations", 4, area=float("nan")), "its area is nan", "the box's area is taken"),
    coco("no object at all", edit(lambda c: c["annotations"].clear()), "there is no object to learn from", STOPS, ""),
    coco("crowds alone", every("annotations", lambda r: dict(iscrowd=1)), "there is no object to learn from", STOPS, ""),
    # photographs
    coco("a photograph that stops half-way", cut("train/3.png"), "not a whole image that Pillow can read", BLACK, "train/3.png"),
    coco("a photograph that is a text", write("train/3.png", "404: Not Found"), "not a whole image that Pillow can read", BLACK, "train/3.png"),
    coco("a photograph of no bytes", write("train/3.png", ""), "not a whole image that Pillow can read", BLACK, "train/3.png"),
    coco("no size, and a photograph that is a text", both(write("train/3.png", "404"), put("images", 3, width=None)),
         "not an image that Pillow can read", NO_IMAGE, TRAIN),
    coco("turned by EXIF, annotated upright", both(as_photo(lambda im: im.transpose(Image.Transpose.ROTATE_90), exif=tag(6))),
         "EXIF says that it is to be turned (orientation 6)", "it is turned", "train/3.png"),
    coco("turned by EXIF, annotated lying", as_photo(lambda im: im, exif=tag(6)), "EXIF says that it is to be turned (orientation 6)",
         "unless its annotation was not", "train/3.png"),
    coco("a photograph in CMYK", as_photo(lambda im: im.convert("CMYK"), kind="JPEG"), "its pixels are CMYK",
         "converted without a colour profile", "train/3.png"),
    coco("a photograph of 16 bits", as_photo(lambda im: Image.fromarray(np.asarray(im.convert("L")).astype(np.uint16) * 257)),
         "its pixels have 16 bits", "the high byte is taken", "train/3.png"),
    coco("a photograph of floating-point numbers", as_photo(lambda im: im.convert("F"), kind="TIFF"), "floating-point", BLACK, "train/3.png"),
    coco("a transparent photograph", as_photo(lambda im: im.convert("RGBA")), "it is transparent in places", "it is laid on white",
         "train/3.png"),
    coco("a palette with a transparent colour", as_photo(lambda im: im.convert("P"), transparency=0), "it is transparent in places",
         "it is laid on white", "train/3.png"),
    coco("a moving picture", as_photo(lambda im: im.convert("P"), kind="GIF", save_all=True,
                                      append_images=[Image.fromarray(pixels(77)).convert("P")]),
         "it has 2 frames", "the first one is taken", "train/3.png"),
    coco("one picture under two names", lambda root: shutil.copy(root / "train/3.png", root / "train/7.png"),
         "it shows the same picture as", "both are used", "train/7.png"),
    coco("one picture on both sides", lambda root: shutil.copy(root / "train/3.png", root / "val/1.png"),
         "which is trained on", "it is judged, and flatters", "val/1.png"),
    coco("a photograph that no annotation speaks of", lambda root: shutil.copy(root / "val/1.png", root / "train/spare.png"),
         "photographs in no annotation that can be used: 1, the first spare.png", "they are not used", "train"),
    # too many
    coco("a sixth of the photographs not there", remove("train/3.png", "train/4.png"), "2 of 12 images can't be used", STOPS),
    coco("a sixth of the photographs unreadable", both(cut("train/3.png"), cut("train/4.png")), "2 of 12 photographs can't be read", STOPS, ""),
    coco("all photographs elsewhere", lambda root: (root / "train").rename(root / "pictures"), "12 of 12 images can't be used", STOPS),
    coco("one image, and nothing held out", both(edit(lambda c: c["images"].__delitem__(slice(1, None))),
                                                edit(lambda c: c["annotations"].__delitem__(slice(3, None))), remove(VAL)),
         "held_out is 0.2, of 1 images", STOPS, ""),
    # VOC: files
    voc("an XML file that stops half-way", cut(XML), "not readable as XML", NO_IMAGE),
    voc("an empty XML file", write(XML, ""), "not readable as XML", NO_IMAGE),
    voc("XML in an unknown encoding", text("<annotation>", '<?xml version="1.0" encoding="klingon"?><annotation>'), "not readable as XML",
        NO_IMAGE),
    voc("a web page in place of XML", write(XML, "<html><body>404</body></html>"), "it holds a <html>", NO_IMAGE),
    voc("a name in the list without a file", text("trainval_000003", "trainval_999999", LISTED), "no photograph trainval_999999.jpg", NO_IMAGE,
        "trainval_999999.xml"),
    voc("an XML file without photograph", remove(JPG), "no photograph trainval_000003.jpg", NO_IMAGE),
    voc("a photograph without XML file", remove(XML), "not readable as XML", NO_IMAGE),
    voc("a name listed twice", text("trainval_000003", "trainval_000004", LISTED), "trainval_000004 is listed 2 times", "it counts once", LISTED),
    voc("an empty list", write(LISTED, "\n"), "the list is empty", STOPS, LISTED),
    voc("labels.txt without a name", write("labels.txt", "\n"), "wanted a name a line, each once; got []", STOPS, "labels.txt"),
    voc("labels.txt with a name twice", write("labels.txt", "bird\ncat\nbird\n"), "wanted a name a line, each once", STOPS, "labels.txt"),
    voc("a class of labels.txt without object", write("labels.txt", "bird\ncat\ndog\nyak\n"), "class 'yak' has no object", "it can't be learnt", ""),
    # VOC: sizes and objects
    voc("no size", text("<size><width>40</width><height>30</height><depth>3</depth></size>", ""),
        "<size/width> should hold a number, got None", OWN_SIZE),
    voc("a size of 0", text("<width>40<", "<width>0<"), "<size> is 0 x 30", OWN_SIZE),
    voc("a width in words", text("<width>40<", "<width>forty<"), "<size/width> should hold a number, got 'forty'", OWN_SIZE),
    voc("the size of another photograph", text("<width>40<", "<width>50<"), "it has 40 x 30 pixels; its annotation wants 50 x 30", BLACK, JPG),
    voc("xmin beyond xmax", box0(23, 5, 4, 15), "wanted xmin < xmax and ymin < ymax", NO_OBJECT),
    voc("a box of no width", box0(4, 5, 4, 15), "wanted xmin < xmax and ymin < ymax", NO_OBJECT),
    voc("a box that leaves the photograph", box0(4, 5, 60, 15), "wanted it inside 40 x 30 pixels", NO_OBJECT),
    voc("a box from below 0", box0(-4, 5, 20, 15), "wanted it inside 40 x 30 pixels", NO_OBJECT),
    voc("a box with NaN", box0("nan", 5, 20, 15), "should hold a number, got 'nan'", NO_OBJECT),
    voc("a box with a number too large", box0(4, 5, "1e999", 15), "should hold a number, got '1e999'", NO_OBJECT),
    voc("an object without box", text(f"<bndbox>{BOX0}</bndbox>", ""), "<bndbox/xmin> should hold a number, got None", NO_OBJECT),
    voc("an object without name", text("<name>bird</name>", ""), "an object has no <name>", NO_OBJECT),
    voc("a name that is no class", text("<name>bird</name>", "<name>brid</name>"), "unknown class 'brid'", NO_OBJECT),
    voc("<difficult> is yes", text("<difficult>0<", "<difficult>yes<"), "<difficult> is 'yes'; wanted 0 or 1", "it counts as 0"),
    voc("a JPEG that stops half-way", cut(JPG), "not a whole image that Pillow can read", BLACK, JPG),
    voc("a sixth of the XML files damaged", both(cut(XML), cut(XML.replace("03.", "04."))), "2 of 12 images can't be used", STOPS, LISTED),
    # folders
    coco("a folder of photographs alone", lambda root: shutil.rmtree(root / "annotations"), "Looked for", STOPS, ""),
    coco("an empty folder", lambda root: [shutil.rmtree(p) for p in root.iterdir()], "Looked for", STOPS, ""),
    coco("no folder", lambda root: shutil.rmtree(root), "is not there. Looked for", STOPS, ""),
    # sequences
    pairs("labels from 0", item(3, labels=lambda x: x - 1), "labels"),
    pairs("a label without name", item(3, labels=lambda x: x + 1), "labels"),
    pairs("labels with a comma", item(3, labels=lambda x: x + .5), "labels"),
    pairs("one label too few", item(3, labels=lambda x: x[1:]), "labels"),
    pairs("boxes in pixels", item(3, boxes=lambda x: x * 40), "boxes"),
    pairs("a box of no width", item(3, boxes=first_box(lambda b: b * torch.tensor([1, 1, 0, 1]))), "boxes"),
    pairs("a box with NaN", item(3, boxes=first_box(lambda b: b * torch.nan)), "boxes"),
    pairs("an image up to 255", item(3, image=lambda x: x * 255), "[0, 1]"),
    pairs("channels last", item(3, image=lambda x: x.permute(1, 2, 0)), "[30, 40, 3]"),
    pairs("an image in place of a pair", lambda data: data.__setitem__(3, data[3][0]), "want a pair (image, target)"),
    pairs("no target", lambda data: data.__setitem__(3, (data[3][0], None)), "targets: want a dict"),
]
