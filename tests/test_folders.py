"""Data of your own: folders in COCO's and VOC's form, sequences, their check, batches of like shape, and the way back to ids."""
import hashlib
import json
import shutil
from functools import partial

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import CATEGORIES, NAMES, make_coco, make_pairs, make_voc
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.ops import box_convert

from detr_lit.data import ToyDetectionDataset, collate
from detr_lit.detr import DETR
from detr_lit.evaluate import coco_metrics, collect
from detr_lit.folders import (
    CocoFolder,
    GroupedBatches,
    VocFolder,
    check_data,
    coco_box,
    draw_sheet,
    open_dataset,
    photo_size,
    read_annotated,
    read_folder,
    role,
    set_apart,
    tally,
    write_coco,
)
from detr_lit.pretrained import coco_targets, read_coco
from detr_lit.train import LAPTOP, Batches, Recipe, train_detr
from detr_lit.voc import VOC_CLASSES, PascalVOC

tensor = torch.tensor
SMALL = dict(d_model=16, n_heads=2, n_enc_layers=1, n_dec_layers=2, dim_ff=24, backbone_name="convnet", norm="group")


@pytest.fixture
def coco_root(tmp_path): return make_coco(tmp_path / "coco")


@pytest.fixture
def voc_root(tmp_path): return make_voc(tmp_path / "voc")


def change(file, f):
    coco = json.loads(file.read_text())
    f(coco)
    file.write_text(json.dumps(coco))


# recognised


def test_coco(coco_root):
    train, held_out = open_dataset(coco_root, short=24, passes=3, seed=5)
    assert type(train) is CocoFolder and (len(train), len(held_out)) == (36, 4) and train.seed == 5
    assert train.class_names == ["cat", "dog", "bird"] and train.category_ids == [2, 5, 9]              # in the order of the ids
    _, target = held_out[0]
    ids = [held_out.category_ids[k - 1] for k in target["labels"].tolist()]
    assert ids == [c for c in CATEGORIES] and target["iscrowd"].tolist() == [0, 0, 0]


def test_boxes_are_the_files(coco_root):
    _, held_out = open_dataset(coco_root, short=60)                                                    # twice their size
    truth = json.loads((coco_root / "annotations/instances_val.json").read_text())
    for k in range(4):
        image, target = held_out[k]
        assert image.shape == (3, 60, 80)
        rows = [r for r in truth["annotations"] if r["image_id"] == truth["images"][k]["id"]]
        got = box_convert(target["boxes"], "cxcywh", "xywh") * tensor([40, 30, 40, 30])
        assert torch.allclose(got, tensor([r["bbox"] for r in rows]).float(), atol=1e-4)
        assert torch.allclose(target["area"], tensor([4 * r["area"] for r in rows]).to(target["area"]))     # the image's pixels


def test_crowds_are_left_out_of_training_and_kept_for_judging(coco_root):
    for part in ("train", "val"):
        change(coco_root / f"annotations/instances_{part}.json",
               lambda c: [r.update(iscrowd=1) for r in c["annotations"] if r["category_id"] == 2])
    train, held_out = open_dataset(coco_root, short=24, passes=2)
    assert all(1 not in t["labels"] and set(t) == {"boxes", "labels"} for _, t in (train[i] for i in range(24)))
    labels, crowds = held_out[0][1]["labels"].tolist(), held_out[0][1]["iscrowd"].tolist()
    assert labels == [3, 1, 2] and crowds == [0, 1, 0]
    assert check_data(coco_root).parts["train"]["crowds"] == 12


def test_one_reader(coco_root):
    "What is read is what chapter 17's reader reads, but for the labels."
    (coco_root / "annotations/instances_val2017.json").write_text((coco_root / "annotations/instances_val.json").read_text())
    (coco_root / "val").rename(coco_root / "val2017")
    (coco_root / "annotations/instances_val.json").unlink()
    ours = [s for part in read_folder(coco_root).roles["val"] for s in part.samples]
    for (path, mine), (theirs, truth) in zip(ours, read_coco(coco_root), strict=True):
        assert path == theirs and torch.allclose(mine["boxes"].double(), truth["boxes"])
        assert [[2, 5, 9][k - 1] for k in mine["labels"].tolist()] == truth["labels"].tolist()
    assert coco_targets(dict(images=[], annotations=[]), coco_root) == []


@pytest.mark.parametrize("layout", ["roboflow", "beside", "images", "one file", "no sizes", "utf-8 with a mark"])
def test_layouts_of_coco(coco_root, tmp_path, layout):
    root, source = tmp_path / "new", None
    if layout == "roboflow":
        for part, theirs in (("train", "train"), ("val", "valid")):
            shutil.copytree(coco_root / part, root / theirs)
            shutil.copy(coco_root / f"annotations/instances_{part}.json", root / theirs / "_annotations.coco.json")
    elif layout in ("beside", "one file", "images"):
        shutil.copytree(coco_root / "train", root / ("images" if layout == "images" else "."), dirs_exist_ok=True)
        shutil.copy(coco_root / "annotations/instances_train.json", root / "labels.json")
        if layout == "one file": source = root / "labels.json"
        (root / "package.json").write_text("{}")                       # another program's
    else:
        root = coco_root
        for file in root.glob("annotations/*.json"):
            if layout == "no sizes": change(file, lambda c: [(r.pop("width"), r.pop("height")) for r in c["images"]])
            else: file.write_text(file.read_text(), "utf-8-sig")
    train, held_out = open_dataset(source or root, short=24, passes=1)
    assert len(train) + len(held_out) in (12, 16) and len(train) in (10, 12)
    assert all(len(t["labels"]) for _, t in (train[i] for i in range(len(train)))) and train.sizes[0] == (30, 40)


def test_several_files_with_other_ids_are_one_data_set(coco_root):
    second = coco_root / "annotations/instances_train_b.json"
    shutil.copy(coco_root / "annotations/instances_val.json", second)
    shutil.copytree(coco_root / "val", coco_root / "train_b")
    other = {2: 70, 5: 0, 9: 8}

    def renumber(c):
        for row in c["categories"]: row["id"] = other[row["id"]]
        for row in c["annotations"]: row["category_id"] = other[row["category_id"]]
        c["categories"].append(dict(id=3, name="yak"))

    change(second, renumber)
    (coco_root / "annotations/instances_val.json").unlink()
    shutil.copytree(coco_root / "val", coco_root / "test")
    shutil.copy(second, coco_root / "annotations/instances_test.json")
    train, held_out = open_dataset(coco_root, passes=1, short=24)
    assert len(train) == 16 and train.class_names == ["cat", "dog", "bird", "yak"] and train.category_ids == [2, 5, 9, 3]
    assert held_out[0][1]["labels"].tolist() == train.samples[0][1]["labels"].tolist() == [3, 1, 2]
    assert any("has the id 70 here, 2 elsewhere" in f.what for f in check_data(coco_root).faults)


def test_a_list_of_sources_is_one_data_set(coco_root, tmp_path):
    other = make_coco(tmp_path / "other")
    change(other / "annotations/instances_val.json", lambda c: [r.update(id=r["id"] + 90) for r in c["categories"]]
           + [r.update(category_id=r["category_id"] + 90) for r in c["annotations"]])
    (other / "annotations/instances_train.json").unlink()
    (other / "val").rename(other / "more")
    (other / "annotations/instances_val.json").rename(other / "annotations/more.json")
    source = [coco_root, other / "annotations/more.json"]
    train, held_out = open_dataset(source, short=24, passes=1)
    assert (len(train), len(held_out)) == (16, 4) and train.category_ids == [2, 5, 9]
    assert train[15][1]["labels"].tolist() == [3, 1, 2] and check_data(source).ok and draw_sheet(source, 2)
    with pytest.raises(FileNotFoundError, match="nowhere: no COCO file. Looked for"): open_dataset([coco_root, "nowhere"])
    plt.close("all")


def test_voc(voc_root):
    train, held_out = open_dataset(voc_root, short=30, passes=2)
    assert type(train) is VocFolder and (len(train), len(held_out)) == (24, 4) and train.class_names == list(NAMES)
    theirs = PascalVOC(voc_root, "test", short=30)
    for k in range(4):
        (a, t), (b, u) = held_out[k], theirs[k]
        assert torch.equal(a, b) and all(torch.equal(t[key], u[key]) for key in u)                     # the one of exercise 5
    theirs = PascalVOC(voc_root, sets=[("2007", "trainval")], short=30, passes=2)
    for k in range(24): assert torch.equal(train[k][0], theirs[k][0]) and torch.equal(train[k][1]["boxes"], theirs[k][1]["boxes"])


@pytest.mark.parametrize("layout", ["no devkit", "the year itself", "no lists", "flat", "train and val", "two years"])
def test_layouts_of_voc(voc_root, tmp_path, layout):
    year = voc_root / "VOCdevkit/VOC2007"
    lists = year / "ImageSets/Main"
    if layout == "no devkit": voc_root = voc_root / "VOCdevkit"
    elif layout == "the year itself": voc_root = year
    elif layout == "no lists": shutil.rmtree(year / "ImageSets")
    elif layout == "train and val":
        names = (lists / "trainval.txt").read_text().splitlines()
        (lists / "train.txt").write_text("\n".join(names[:9]))
        (lists / "val.txt").write_text("\n".join(names[9:]))
        (lists / "test.txt").unlink()
    elif layout == "two years":
        shutil.copytree(year, year.parent / "VOC2012")
        (year.parent / "VOC2012/ImageSets/Main/test.txt").unlink()
    elif layout == "flat":
        flat = tmp_path / "flat"
        flat.mkdir()
        for p in [*year.glob("JPEGImages/*"), *year.glob("Annotations/*")]: shutil.copy(p, flat)
        voc_root = flat
    train, held_out = open_dataset(voc_root, short=24, passes=1)
    want = {"no lists": (13, 3), "flat": (13, 3), "train and val": (9, 3), "two years": (24, 4)}.get(layout, (12, 4))
    assert (len(train), len(held_out)) == want
    assert train.class_names == list(NAMES if (voc_root / "labels.txt").exists() else VOC_CLASSES)
    assert not {p for p, _ in train.samples} & {p for p, _ in held_out.samples}


def test_voc_without_labels_txt(voc_root):
    (voc_root / "labels.txt").unlink()
    assert open_dataset(voc_root).train.class_names == list(VOC_CLASSES)
    xml = next(voc_root.rglob("*.xml"))
    xml.write_text(xml.read_text().replace("<name>cat<", "<name>teapot<"))
    assert open_dataset(voc_root).train.class_names == ["bird", "cat", "dog", "teapot"]


def test_difficult_is_crowd(voc_root):
    for xml in voc_root.rglob("*.xml"): xml.write_text(xml.read_text().replace("<difficult>0", "<difficult>1", 1))
    train, held_out = open_dataset(voc_root, short=24, passes=1)
    assert held_out[0][1]["difficult"].tolist() == [True, False, False] and held_out[0][1]["iscrowd"].tolist() == [1, 0, 0]
    assert all(1 not in train[i][1]["labels"] for i in range(12))


def test_names():
    train, held_out = open_dataset("toy", seed=3)
    assert isinstance(train, ToyDetectionDataset) and train.seed == 3 and len(held_out) == 500 and held_out.split == "val"


@pytest.mark.parametrize("source", ["nowhere", "voc:nowhere"])
def test_nothing_there(source):
    with pytest.raises(FileNotFoundError, match="nowhere is not there. Looked for\nCOCO.*\nVOC.*Annotations.*\nnames: toy, tr"):
        open_dataset(source)


def test_nothing_that_fits(tmp_path):
    (tmp_path / "cat.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"holds \['cat.jpg'\]. Looked for"): open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds a file"): open_dataset(tmp_path / "cat.jpg")


@pytest.mark.parametrize("name, want", [("instances_train2017", "train"), ("trainval", "train"), ("Valid", "val"),
                                        ("my_test", "test"), ("latest", "")])
def test_roles(name, want): assert role(name) == want


# sequences


def test_pairs(tmp_path):
    data = make_pairs(tmp_path)
    train, held_out = open_dataset(data, class_names=NAMES)
    assert (len(train), len(held_out)) == (10, 2) and train.class_names == list(NAMES)
    assert torch.equal(train[0][0], data[train.places[0]][0]) and {*train.places, *held_out.places} == {*range(12)}
    other = open_dataset(data[:9], class_names=NAMES, held_out=data[9:])
    assert (len(other.train), len(other.held_out)) == (9, 3)
    bytes_ = [((image * 255).round().byte(), t) for image, t in data]
    assert torch.allclose(open_dataset(bytes_, class_names=NAMES).train[0][0], train[0][0], atol=1e-6)
    assert open_dataset(ToyDetectionDataset(9)).train.class_names == ["rectangle", "ellipse", "triangle"]
    with pytest.raises(IndexError): train[10]


@pytest.mark.parametrize("source", [[], 7, None, iter([1])])
def test_no_pairs(source):
    with pytest.raises(ValueError, match="want a path or a name, or a sequence"): open_dataset(source, class_names=["a"])
    with pytest.raises(ValueError, match="want a path or a name, or a sequence"): check_data(source, class_names=["a"])


def test_pairs_without_names(tmp_path):
    with pytest.raises(ValueError, match="class_names None"): open_dataset(make_pairs(tmp_path))


# the two sides


@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 60), share=st.floats(.01, .99), seed=st.randoms(use_true_random=False))
def test_what_is_held_out_depends_on_names_alone(n, share, seed):
    from pathlib import Path
    samples = [(Path(f"a/{k}.jpg"), {}) for k in range(n)]
    rest, apart = set_apart(samples, share)
    assert len(apart) >= 1 and len(rest) + len(apart) == n and not {p for p, _ in rest} & {p for p, _ in apart}
    seed.shuffle(samples)
    assert {p for p, _ in set_apart(samples, share)[1]} == {p for p, _ in apart}


@pytest.mark.parametrize("share", [0, 1, -.5])
def test_shares_out_of_range(coco_root, share):
    (coco_root / "annotations/instances_val.json").unlink()
    with pytest.raises(ValueError, match=f"held_out is {share}, of 12 images"): open_dataset(coco_root, held_out=share)


# photographs


def test_a_photograph_as_its_annotator_saw_it(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    picture = Image.fromarray(torch.arange(24).reshape(4, 6).mul(10).byte().numpy())
    picture.save(tmp_path / "a.png", exif=exif)
    assert photo_size(tmp_path / "a.png") == (6, 4)
    raw = torch.arange(24).reshape(4, 6) * 10
    assert torch.equal(read_annotated(tmp_path / "a.png", 4, 6)[0].int(), raw.int())
    assert torch.equal(read_annotated(tmp_path / "a.png", 6, 4)[0].int(), raw.rot90(-1).int())
    with pytest.raises(ValueError, match="has 6 x 4 pixels; its annotation wants 9 x 5"): read_annotated(tmp_path / "a.png", 5, 9)


def test_an_unreadable_photograph_is_black_and_said_once(coco_root, caplog):
    (coco_root / "train/3.png").write_bytes(b"no")
    train = open_dataset(coco_root, short=24, passes=5).train
    for i in range(60): train[i]
    image, target = train[3]
    assert image.abs().max() == 0 and target["boxes"].shape == (0, 4) and len(caplog.records) == 1
    assert "3.png" in caplog.text and "black picture" in caplog.text


# items


def test_items_are_the_same_for_ever_and_in_any_process(coco_root):
    a, b = (open_dataset(coco_root, short=24, passes=4, seed=1).train for _ in range(2))
    state = torch.get_rng_state()
    first = [a[i][0] for i in range(48)]
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(9)
    assert all(torch.equal(b[i][0], first[i]) for i in reversed(range(48)))
    assert any(x.shape != y.shape or not torch.equal(x, y) for x, y in zip(first[:12], first[12:24]))
    loaded = [images[0] for images, *_ in DataLoader(a, 1, collate_fn=collate, num_workers=2)]
    assert all(torch.equal(x, y) for x, y in zip(loaded, first))
    with pytest.raises(IndexError): a[48]


def test_bad_arguments(coco_root):
    for bad, says in ((dict(passes=0), "passes is 0"), (dict(short=4), "short is 4")):
        with pytest.raises(ValueError, match=says): open_dataset(coco_root, **bad)


def test_other_transforms(coco_root):
    from detr_lit.voc import voc_transforms
    train = open_dataset(coco_root, passes=1, transforms=voc_transforms(False, short=30)).train
    assert train[0][0].shape == (3, 30, 40)


# from the folder to a checkpoint, and back


def test_class_names_travel_and_ids_come_back(coco_root, tmp_path):
    "Ids 2, 5, 9 -> labels 1, 2, 3 -> a checkpoint that knows the names -> ids."
    train, held_out = open_dataset(coco_root, short=32, passes=1000)
    recipe = dict(model=SMALL | dict(num_queries=5))
    from detr_lit.train import Recipe
    run = dict(recipe=Recipe(**recipe), data=train, val=held_out, out=tmp_path / "out", progress=False, device="cpu")
    model, history = train_detr(2, 2, **run)
    assert model.num_classes == 3 and 0 <= history[-1]["AP50"] <= 1
    again = DETR.from_pretrained(tmp_path / "out/weights")
    assert again.class_names == ["cat", "dog", "bird"]
    config = json.loads((tmp_path / "out/weights/config.json").read_text())
    assert config["class_names"] == ["cat", "dog", "bird"]
    names = dict(zip(held_out.class_names, held_out.category_ids))
    assert names == {name: c for c, name in CATEGORIES.items()}
    resumed, _ = train_detr(2, 2, resume=True, **run)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), resumed.state_dict().values()))


def test_ap_is_that_of_pycocotools_on_the_file(coco_root, tmp_path):
    "Detections written with the file's own ids and judged by pycocotools on the file itself."
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    _, held_out = open_dataset(coco_root, short=30)                                # their own size
    torch.manual_seed(0)
    model = DETR(3, 20, class_names=held_out.class_names, **SMALL)
    detections, truths = collect(model, held_out)
    for d, t in zip(detections, truths): d["boxes"][:3], d["labels"][:3] = t["boxes"] + 1, t["labels"]
    ours = coco_metrics(detections, truths)
    file = coco_root / "annotations/instances_val.json"
    ids = [row["id"] for row in json.loads(file.read_text())["images"]]
    rows = []
    for key, d in zip(ids, detections):
        for label, (x0, y0, x1, y1), score in zip(*(d[name].tolist() for name in ("labels", "boxes", "scores"))):
            bbox = [x0, y0, x1 - x0, y1 - y0]
            rows.append(dict(image_id=key, category_id=held_out.category_ids[label - 1], bbox=bbox, score=score))
    truth = COCO(str(file))
    ev = COCOeval(truth, truth.loadRes(rows), "bbox")
    ev.evaluate(); ev.accumulate(); ev.summarize()
    assert ours["AP"] > .01
    assert (ours["AP"], ours["AP50"], ours["AR100"]) == pytest.approx((ev.stats[0], ev.stats[1], ev.stats[8]), abs=1e-6)


def test_written_and_read_again(tmp_path):
    pairs = [((image * 255).round().byte(), t) for image, t in ToyDetectionDataset(6)]
    write_coco(tmp_path, pairs, {0: "b", 33: "a", 4: "c"})
    write_coco(tmp_path, pairs, {0: "b", 33: "a", 4: "c"}, name="val")
    held_out = open_dataset(tmp_path, short=128).held_out
    assert held_out.class_names == ["b", "c", "a"] and held_out.category_ids == [0, 4, 33]
    for k, (image, target) in enumerate(pairs):
        got, t = held_out[k]
        assert torch.allclose(got * 255, image.float(), atol=1e-3) and torch.allclose(t["boxes"], target["boxes"], atol=1e-4)
        assert t["labels"].tolist() == [{1: 1, 2: 3, 3: 2}[c] for c in target["labels"].tolist()]
    with pytest.raises(ValueError, match=r"samples\[0\] is torch.float32"):
        write_coco(tmp_path, [(pairs[0][0] / 255, pairs[0][1])], {1: "a"})


# the check


@pytest.mark.parametrize("make", [make_coco, make_voc])
def test_nothing_is_altered(tmp_path, make):
    root = make(tmp_path / "data")
    (next(root.rglob("*.png"), None) or next(root.rglob("*.jpg"))).write_bytes(b"half")
    def state():
        def of(p): return p.stat().st_mtime_ns, p.is_file() and hashlib.sha256(p.read_bytes()).digest()
        return {p: of(p) for p in [root, *root.rglob("*")]}
    before = state()
    check_data(root)
    draw_sheet(root, 4)
    for side in open_dataset(root, short=24, passes=1): [side[i] for i in range(len(side))]
    assert state() == before
    plt.close("all")


def test_the_report(coco_root):
    change(coco_root / "annotations/instances_train.json", lambda c: c["annotations"][4].update(bbox=None))
    report = check_data(coco_root)
    text, plain = str(report), json.loads(json.dumps(report.as_dict()))
    assert "label 2: dog (category 5): 12 train, 4 held out" in text and "train: 12 images (0 empty), 40 x 30" in text
    assert "35 objects" in text and text.endswith("0 errors, 1 warning") and "wanted four finite numbers" in text
    assert plain["ok"] and plain["faults"][0]["severity"] == "warning"
    assert plain["parts"]["train"]["classes"] == dict(cat=11, dog=12, bird=12)
    assert plain["category_ids"] == [2, 5, 9] and plain["kind"] == "COCO"


def test_numbers_of_a_report():
    from pathlib import Path
    target = dict(boxes=tensor([[0., 0, 31, 33], [0, 0, 32, 32], [0, 0, 96, 96], [0, 0, 9, 9]]), labels=tensor([1, 2, 2, 1]),
                  iscrowd=tensor([0, 0, 0, 1]), area=tensor([1023., 1024, 9216, 81]), size=tensor([100, 200]))
    no = tensor([])
    none = dict(boxes=torch.zeros(0, 4), labels=no.long(), iscrowd=no.long(), area=no, size=tensor([50, 60]))
    got = tally([(Path("a"), target), (Path("b"), none)], ["x", "y", "z"])
    assert got == dict(images=2, empty=1, objects=3, crowds=1, small=1, medium=1, large=1, most_objects=3, median_objects=1.5,
                       image_sizes=["60 x 50", "200 x 100", "200 x 100"], classes=dict(x=1, y=2, z=0))


@pytest.mark.parametrize("bbox, want", [([8, 12, 32, 32], ([8, 12, 32, 32], False)),
                                        ([-.5, 0, 10, 10], ([0, 0, 9.5, 10], False)),
                                        ([60, 50, 30, 12], ([60, 50, 20, 10], True)), ([0, 0, 80, 60], ([0, 0, 80, 60], False)),
                                        ([79.5, 59.5, .5, .5], ([79.5, 59.5, .5, .5], False))])
def test_boxes_that_are_taken(bbox, want): assert coco_box(bbox, 60, 80) == want


def test_sheets(coco_root):
    figure = draw_sheet(coco_root, 5, columns=2)
    assert len(figure.axes) == 6
    assert sum(len(ax.images) for ax in figure.axes) == 5 and sum(len(ax.patches) for ax in figure.axes) == 15
    assert "dog" in {t.get_text() for ax in figure.axes for t in ax.texts}
    train = open_dataset(coco_root, short=24).train
    assert len(draw_sheet(train, 3).axes) == 4 and len(draw_sheet(ToyDetectionDataset(2)).axes) == 4
    with pytest.raises(ValueError, match="count is 0"): draw_sheet(train, 0)
    plt.close("all")


# batches


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=40), passes=st.integers(1, 4),
       b=st.integers(1, 8), pool=st.integers(1, 6), seed=st.integers(0, 99), start=st.integers(0, 20))
def test_groups_are_batches_in_another_order(sizes, passes, b, pool, seed, start):
    m = len(sizes)
    n = m * passes
    make = partial(GroupedBatches, n, b, seed, sizes=sizes, pool=pool)
    whole = list(make(0, 24))
    assert all(len(x) == b for x in whole) and len(whole) == len(make(0, 24)) == 24
    plain = list(Batches(m, b, seed, 0, 24))
    for p in range(0, 24 - pool + 1, pool):
        assert sorted(i % m for i in sum(whole[p:p + pool], [])) == sorted(sum(plain[p:p + pool], []))
    assert list(make(start, 24)) == whole[start:]                                          # resumed anywhere
    shapes = [[sizes[i % m][0] / sizes[i % m][1] for i in x] for x in whole[:pool]]
    ordered = sorted(shapes, key=lambda s: (min(s), max(s)))
    assert all(max(x) <= min(y) for x, y in zip(ordered, ordered[1:]))                      # no two batches of a pool overlap
    items = sum(list(make(0, pool * (n // b // pool))), [])                                 # whole pools within the first n items
    assert len(set(items)) == len(items) and all(0 <= i < n for i in items)


def test_groups_differ_by_seed_and_batches_come_in_any_order():
    sizes = [(k, 1) for k in range(1, 65)]
    a, b = (list(GroupedBatches(64, 4, seed, 0, 16, sizes=sizes, pool=16)) for seed in (0, 1))
    assert a != b and a == list(GroupedBatches(64, 4, 0, 0, 16, sizes=sizes, pool=16))
    firsts = [x[0] for x in a]
    assert firsts != sorted(firsts) and sorted(firsts) == list(range(0, 64, 4))


def test_groups_save_padding(tmp_path):
    torch.manual_seed(0)
    shapes = [(24, 48), (48, 24)]
    box = dict(boxes=tensor([[.5, .5, .5, .5]]), labels=tensor([1]))
    write_coco(tmp_path, [(torch.zeros(3, *shapes[k % 2], dtype=torch.uint8), box) for k in range(32)], {1: "a"})
    held = open_dataset(tmp_path, short=24, held_out=.5).held_out
    sizes = held.sizes
    def padding(batches):
        return sum(mask.float().mean().item() for _, mask, _ in DataLoader(held, batch_sampler=batches, collate_fn=collate))
    assert padding(GroupedBatches(16, 4, 0, 0, 4, sizes=sizes)) < .6 * padding(Batches(16, 4, 0, 0, 4))


@pytest.mark.parametrize("bad", [dict(sizes=[]), dict(sizes=[(1, 1)], pool=0), dict(sizes=[(1, 1)] * 3)])
def test_bad_groups(bad):
    with pytest.raises(ValueError, match="want 1 or more"): GroupedBatches(4, 2, 0, 0, 2, **bad)


def test_the_laptop_recipe_trains_on_a_folder(coco_root):
    train, _ = open_dataset(coco_root, short=32)
    _, history = train_detr(1, 2, recipe=LAPTOP, data=train, progress=False, device="cpu")
    assert history[-1]["total"] > 0


def test_a_training_with_grouped_batches_and_its_shares():
    sizes = [(40, 60), (60, 40), (50, 50), (44, 60)]
    whole = list(GroupedBatches(16, 4, 0, 0, 4, sizes=sizes))
    shares = [list(GroupedBatches(16, 4, 0, 0, 4, rank, 2, sizes=sizes)) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shares)] == [sorted(batch) for batch in whole]
    asked = []
    class Asked(ToyDetectionDataset):
        def __getitem__(self, i):
            asked.append(i)
            return super().__getitem__(i)
    train_detr(4, 4, recipe=Recipe(model=SMALL | dict(num_queries=8)), data=Asked(16, image_size=64), progress=False,
               batches=partial(GroupedBatches, sizes=sizes))
    assert asked == sum(whole, [])
