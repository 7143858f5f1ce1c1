"""Exercise 5: Pascal VOC's files, augmentation and scores, and a trained start. Small trees of our own; nothing is downloaded."""
import hashlib
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import VOCDetection, wrap_dataset_for_transforms_v2
from torchvision.datasets import voc as torchvision_voc
from torchvision.ops import box_convert, box_iou

from detr_lit.data import collate
from detr_lit.detr import DETR
from detr_lit.evaluate import coco_metrics, evaluate
from detr_lit.train import LAPTOP, train_detr
from detr_lit.voc import (
    VOC_CLASSES,
    VOC_SPLITS,
    PascalVOC,
    RandomSizeCrop,
    evaluate_voc,
    read_target,
    start_from,
    tree_tiles,
    voc_average_precision,
    voc_files,
    voc_hits,
    voc_metrics,
    voc_transforms,
    voc_xml,
    write_trees,
    write_voc,
)

tensor = torch.tensor


def picture(seed, height=60, width=80, boxes=((10, 20, 40, 50), (50, 5, 70, 25)), difficult=(False, True), labels=(15, 8)):
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    for box in boxes:
        x0, y0, x1, y1 = box
        image[:, y0:y1, x0:x1] = 255
    return image, dict(boxes=tensor(boxes).float().reshape(-1, 4), labels=tensor(labels), difficult=tensor(difficult).bool())


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    "VOC 2007 and 2012 in small: 3 + 2 photographs to train on, 2 to judge on."
    root = tmp_path_factory.mktemp("voc")
    write_voc(root, [picture(i) for i in range(3)], VOC_CLASSES)
    write_voc(root, [picture(i, 50, 90) for i in range(3, 5)], VOC_CLASSES, year="2012")
    empty = picture(9, boxes=(), difficult=(), labels=torch.zeros(0).long().tolist())
    empty[1]["labels"] = empty[1]["labels"].long()
    write_voc(root, [picture(5), empty], VOC_CLASSES, name="test")
    (root / "labels.txt").unlink()
    return root


# files


def test_the_classes_are_torchvisions():
    from torchvision.tv_tensors import _dataset_wrapper as wrapper
    assert ("__background__", *VOC_CLASSES) == tuple(wrapper.VOC_DETECTION_CATEGORIES)


def test_the_lists_are_joined_and_in_order(tree):
    files = voc_files(tree, VOC_SPLITS["train"])
    assert [p.parts[-3] for p, _ in files] == ["VOC2007"] * 3 + ["VOC2012"] * 2
    assert all(p.exists() and x.exists() and p.stem == x.stem for p, x in files)
    assert len(voc_files(tree, VOC_SPLITS["test"])) == 2


def test_missing_and_empty_lists_are_named(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="VOC2007.*test.txt is not there"): voc_files(tmp_path, [("2007", "test")])
    with pytest.raises(FileNotFoundError, match="val.txt is not there"): voc_files(tree, [("2007", "val")])
    (tree / "VOCdevkit/VOC2007/ImageSets/Main/train.txt").write_text("")
    with pytest.raises(ValueError, match="the list train of VOC2007 is empty"): voc_files(tree, [("2007", "train")])


def test_a_download_is_asked_for_and_its_md5_compared(tree, tmp_path, monkeypatch):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with tarfile.open(shelf / "voc.tar", "w") as tar: tar.add(tree / "VOCdevkit", "VOCdevkit")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(shelf)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(md5):
        url = f"http://127.0.0.1:{server.server_port}/voc.tar"
        fake = dict(torchvision_voc.DATASET_YEAR_DICT["2007"], url=url, filename="voc.tar", md5=md5)
        monkeypatch.setitem(torchvision_voc.DATASET_YEAR_DICT, "2007", fake)

    try:
        serve("0" * 32)
        with pytest.raises(RuntimeError): voc_files(tmp_path / "a", [("2007", "trainval")], download=True)
        assert not (tmp_path / "a" / "VOCdevkit").exists()
        serve(hashlib.md5((shelf / "voc.tar").read_bytes()).hexdigest())
        with pytest.raises(FileNotFoundError): voc_files(tmp_path / "b", [("2007", "trainval")])
        assert len(voc_files(tmp_path / "b", [("2007", "trainval")], download=True)) == 3
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("mark, want", [("1", True), ("0", False), (" 1 ", True), (None, False)])
def test_difficult(tmp_path, mark, want):
    xml = voc_xml(picture(0)[1], (60, 80), VOC_CLASSES)
    old = "<difficult>1</difficult>"
    (tmp_path / "a.xml").write_text(xml.replace(old, "" if mark is None else f"<difficult>{mark}</difficult>"))
    assert read_target(tmp_path / "a.xml")["difficult"].tolist() == [False, want]


def test_an_odd_difficult_is_refused(tmp_path):
    (tmp_path / "a.xml").write_text(voc_xml(picture(0)[1], (60, 80), VOC_CLASSES).replace("<difficult>1<", "<difficult>yes<"))
    with pytest.raises(ValueError, match="a.xml.*0 or 1, got 'yes'"): read_target(tmp_path / "a.xml")


def test_written_and_read_again(tmp_path):
    image, target = picture(0, labels=(1, 2))
    write_voc(tmp_path, [(image, target)], ("a & b", "<c>"))
    read = read_target(tmp_path / "VOCdevkit/VOC2007/Annotations/trainval_000000.xml", ("a & b", "<c>"))
    assert all(torch.equal(read[k], target[k]) for k in target) and read["size"].tolist() == [60, 80]
    data = PascalVOC(tmp_path, sets=[("2007", "trainval")], short=60)
    assert data.class_names == ("a & b", "<c>")


@pytest.mark.parametrize("change, names, want", [
    (dict(labels=tensor([1, 3])), ("a", "b"), "labels up to 2"), (dict(labels=tensor([0, 1])), ("a", "b"), "labels want 1"),
    (dict(boxes=torch.zeros(1, 4)), ("a", "b"), "boxes want"), (dict(difficult=tensor([True])), ("a", "b"), "a mark for each")])
def test_what_cannot_be_written(tmp_path, change, names, want):
    image, target = picture(0, labels=(1, 2))
    with pytest.raises(ValueError, match=want): write_voc(tmp_path, [(image, target | change)], names)
    with pytest.raises(ValueError, match="torch.float32"): write_voc(tmp_path, [(image / 255, target)], names)
    assert not list(tmp_path.iterdir())                               # refused before anything was written


# augmentation


def test_crops_stay_inside_and_take_the_boxes_along():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:30, 20:50] = 255
    for seed in range(50):
        torch.manual_seed(seed)
        box = tv_tensors.BoundingBoxes([[20., 10, 50, 30]], format="XYXY", canvas_size=(40, 60))
        seen, target = RandomSizeCrop(15, 50)(tv_tensors.Image(image), dict(boxes=box))
        assert 15 <= seen.shape[1] <= 40 and 15 <= seen.shape[2] <= 50
        x0, y0, x1, y1 = target["boxes"][0].int().tolist()
        inside = seen[0, y0:y1, x0:x1]
        assert (inside == 255).all() and inside.numel() == (seen[0] == 255).sum()


def test_sizes_are_the_official_ones():
    from detr_lit.pretrained import official_size
    for height, width in [(480, 640), (640, 427), (333, 1000)]:
        image = tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8))
        box = tv_tensors.BoundingBoxes([[0., 0, 9, 9]], format="XYXY", canvas_size=(height, width))
        target = dict(boxes=box, labels=tensor([1]))
        seen, _ = voc_transforms(train=False)(image, target)
        assert all(abs(a - b) <= 1 for a, b in zip(seen.shape[1:], official_size(height, width)))
        assert seen.dtype == torch.float32


def test_boxes_follow_mirror_crop_and_size(tmp_path):
    write_voc(tmp_path, [picture(0, 200, 300, boxes=((60, 40, 220, 160),), difficult=(False,), labels=(1,))], ("box",))
    data = PascalVOC(tmp_path, sets=[("2007", "trainval")], short=160, passes=40)
    for image, target in data:
        assert len(target["boxes"]) == 1
        h, w = image.shape[1:]
        x0, y0, x1, y1 = (box_convert(target["boxes"], "cxcywh", "xyxy")[0] * tensor([w, h, w, h])).tolist()
        white = (image > .93).all(0)
        assert white[round(y0) + 3:round(y1) - 3, round(x0) + 3:round(x1) - 3].float().mean() > .97
        white[max(0, round(y0) - 3):round(y1) + 3, max(0, round(x0) - 3):round(x1) + 3] = False
        assert white.float().mean() < .02


@pytest.mark.parametrize("bad, want", [
    (dict(short=4), "short is 4"), (dict(longest=.5), "longest 0.5"), (dict(sides=(1., .5)), "sides is"),
    (dict(crop=(0., 1.)), "crop is"), (dict(middle=(-1., 1.)), "middle is")])
def test_sizes_out_of_order_are_refused(bad, want):
    with pytest.raises(ValueError, match=want): voc_transforms(**bad)


def test_bad_crops_are_refused():
    for least, most in ((0, 5), (6, 5)):
        with pytest.raises(ValueError, match="least and most"): RandomSizeCrop(least, most)


# the data set


def test_the_contract(tree):
    train, test = PascalVOC(tree, short=48), PascalVOC(tree, "test", short=48)
    assert len(train) == 5 and train.class_names == VOC_CLASSES
    for data in (train, test):
        for image, target in data:
            assert type(image) is torch.Tensor and type(target["boxes"]) is torch.Tensor
            assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
            assert (target["boxes"] >= 0).all() and (target["boxes"] <= 1).all()
            assert target["labels"].dtype == torch.int64 and target["boxes"].shape == (len(target["labels"]), 4)
    images, mask, targets = next(iter(DataLoader(train, 5, collate_fn=collate)))
    assert mask.any() and set(targets[0]) == {"boxes", "labels"}


def test_difficult_objects_are_left_out_of_training_and_marked_for_judging(tree):
    assert all(8 not in target["labels"] for _, target in PascalVOC(tree, short=48, passes=5))
    judged = PascalVOC(tree, "test", short=48)[0][1]
    assert judged["labels"].tolist() == [15, 8]
    assert judged["difficult"].tolist() == [False, True] and judged["iscrowd"].tolist() == [0, 1]


def test_boxes_are_torchvisions_but_for_the_first_pixel(tree):
    theirs = wrap_dataset_for_transforms_v2(VOCDetection(str(tree), "2007", "test"), target_keys=["boxes", "labels"])
    _, t = theirs[0]
    ours = read_target(voc_files(tree, VOC_SPLITS["test"])[0][1])
    assert torch.equal(t["boxes"].as_subclass(torch.Tensor) - tensor([1, 1, 0, 0]), ours["boxes"])
    assert torch.equal(t["labels"], ours["labels"])


def test_an_item_is_the_same_for_ever_and_every_pass_another(tree):
    a, b = PascalVOC(tree, short=48, passes=3), PascalVOC(tree, short=48, passes=3)
    state = torch.get_rng_state()
    first = [a[i][0] for i in range(15)]
    assert torch.equal(state, torch.get_rng_state())                  # and nobody else's dice are touched
    torch.manual_seed(1)
    assert all(torch.equal(b[i][0], x) for i, x in reversed([*enumerate(first)]))
    assert any(x.shape != y.shape for x, y in zip(first[:5], first[5:10]))
    other = PascalVOC(tree, short=48, seed=1)
    assert any(x.shape != other[i][0].shape for i, x in enumerate(first[:5]))
    with pytest.raises(IndexError): a[15]
    loaded = torch.cat([images for images, *_ in DataLoader(a, 1, collate_fn=collate, num_workers=2)][0:1])
    assert torch.equal(loaded[0], first[0])


def test_a_photograph_of_another_size_is_refused(tmp_path):
    write_voc(tmp_path, [picture(0, labels=(1, 2))], ("a", "b"), name="test")
    xml = tmp_path / "VOCdevkit/VOC2007/Annotations/test_000000.xml"
    xml.write_text(xml.read_text().replace("<width>80<", "<width>90<"))
    with pytest.raises(ValueError, match=r"has \(60, 80\) pixels.*wants \(60, 90\)"): PascalVOC(tmp_path, "test")[0]


@pytest.mark.parametrize("bad, want", [(dict(split="val"), "'val'"), (dict(passes=0), "got 'train' and 0")])
def test_bad_arguments(tree, bad, want):
    with pytest.raises(ValueError, match=want): PascalVOC(tree, **bad)


def test_the_trees(tmp_path):
    from pathlib import Path
    photos = Path(__file__).parents[1] / "nbs/runs/tree_photos"
    write_trees(tmp_path, photos)
    test = PascalVOC(tmp_path, "test", short=160)
    assert len(test) == 30 and test.class_names == ("tree",)
    marks = torch.cat([t["difficult"] for _, t in tree_tiles("val", photos)])
    from detr_lit.datasets import TreeCrowns
    kept = sum(len(t["labels"]) for _, t in TreeCrowns("val", photos))
    assert int((~marks).sum()) == kept and 0 < marks.float().mean() < .5        # chapter 16 keeps those that aren't difficult


# scores


def by_the_rule(detections, truths, label, threshold, eleven):
    "VOC's rule with lists and loops: one list of all detections, the surest first; the curve's area or eleven readings."
    rows = [(s, i, b) for i, d in enumerate(detections) for s, b, k in
            zip(d["scores"].tolist(), d["boxes"], d["labels"].tolist()) if k == label]
    objects = [[(b, bool(m)) for b, k, m in zip(t["boxes"], t["labels"].tolist(), t["difficult"]) if k == label] for t in truths]
    wanted, used, tp, fp, recall, precision = sum(not m for o in objects for _, m in o), set(), 0, 0, [], []
    if not wanted: return float("nan")
    for _, i, box in sorted(rows, key=lambda row: -row[0]):
        overlaps = [box_iou(box[None].double(), b[None].double()).item() for b, _ in objects[i]]
        best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= threshold:
            if objects[i][best][1]: continue
            if (i, best) in used: fp += 1
            else: tp += 1
            used.add((i, best))
        else: fp += 1
        recall.append(tp / wanted)
        precision.append(tp / (tp + fp))
    if eleven:
        return sum(max([p for p, r in zip(precision, recall) if r >= k / 10 - 1e-9], default=0.) for k in range(11)) / 11
    corners = [0., *sorted(set(recall))]
    return sum((b - a) * max(p for p, r in zip(precision, recall) if r >= b) for a, b in zip(corners, corners[1:]))


def scene(seed, images=4):
    g = torch.Generator().manual_seed(seed)

    def boxes(n):
        corner = torch.rand(n, 2, generator=g) * 12
        return torch.cat([corner, corner + 4 + torch.rand(n, 2, generator=g) * 8], 1)

    truths, found = [], []
    for _ in range(images):
        m, n = (int(torch.randint(0, k, (), generator=g)) for k in (5, 9))
        hard = torch.rand(m, generator=g) < .3
        truths.append(dict(boxes=boxes(m), labels=torch.randint(1, 3, (m,), generator=g), difficult=hard))
        near = truths[-1]["boxes"][torch.randint(0, m, (n,), generator=g)] + torch.rand(n, 4, generator=g) * 2 if m else boxes(n)
        found.append(dict(boxes=near, labels=torch.randint(1, 3, (n,), generator=g), scores=torch.rand(n, generator=g)))
    return found, truths


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), eleven=st.booleans(), threshold=st.sampled_from([.3, .5, .7]))
def test_ap_is_that_of_a_second_implementation(seed, eleven, threshold):
    found, truths = scene(seed)
    for label in (1, 2):
        ours = voc_average_precision(found, truths, label, iou_threshold=threshold, eleven_points=eleven)
        assert ours == pytest.approx(by_the_rule(found, truths, label, threshold, eleven), nan_ok=True, abs=1e-9)


def test_a_curve_worked_out_by_hand():
    objects = tensor([[k * 20., 0, k * 20 + 10, 10] for k in range(5)])
    hits = [1, 0, 1, 1, 0, 0, 1]                                      # of five objects, four are found
    boxes = torch.stack([objects[sum(hits[:i])] if h else tensor([0., 50, 10, 60]) for i, h in enumerate(hits)])
    found = [dict(boxes=boxes, labels=torch.ones(7).long(), scores=torch.linspace(.9, .3, 7))]
    truth = [dict(boxes=objects, labels=torch.ones(5).long())]
    area = (1 + 3 / 4 + 3 / 4 + 4 / 7) / 5                            # precision at recalls 1/5, 2/5, 3/5, 4/5; the fifth is lost
    eleven = (3 * 1 + 4 * 3 / 4 + 2 * 4 / 7) / 11                     # recalls 0, .1, .2 | .3 to .6 | .7, .8 | .9, 1
    assert voc_average_precision(found, truth, 1) == pytest.approx(area, abs=1e-12)
    assert voc_average_precision(found, truth, 1, eleven_points=True) == pytest.approx(eleven, abs=1e-12)


def test_limit_cases():
    box, no = tensor([[0., 0, 10, 10]]), dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    truth, found = dict(boxes=box, labels=tensor([1])), dict(boxes=box, labels=tensor([1]), scores=tensor([.5]))
    def ap(f, t, **more): return voc_average_precision([f], [t], 1, **more)
    assert ap(found, truth) == ap(found, truth, eleven_points=True) == 1
    assert ap(no | dict(scores=torch.zeros(0)), truth) == ap(no | dict(scores=torch.zeros(0)), truth, eleven_points=True) == 0
    assert ap(found, no) != ap(found, no)                             # nan: nothing to find
    hard = truth | dict(difficult=tensor([True]))
    assert ap(found, hard) != ap(found, hard)                         # nan: nothing that counts
    half = found | dict(boxes=tensor([[0., 0, 5, 10]]))
    assert ap(half, truth) == 1 and ap(half, truth, iou_threshold=.51) == 0       # half is enough


def test_a_double_is_a_miss_even_where_coco_finds_it_another_object():
    objects, boxes = tensor([[0., 0, 10, 10], [0, 4, 10, 14]]), tensor([[0., 0, 10, 10], [0, 1.5, 10, 11.5]])
    hit, judged = voc_hits(tensor([.9, .8]), boxes, objects, tensor([False, False]))
    assert hit.tolist() == [True, False] and judged.all()
    labels = tensor([1, 1])
    found, truth = [dict(boxes=boxes, labels=labels, scores=tensor([.9, .8]))], [dict(boxes=objects, labels=labels)]
    assert voc_metrics(found, truth, ("a",))["mAP"] == .5 and coco_metrics(found, truth)["AP50"] == pytest.approx(1)


def test_the_mean_leaves_out_classes_without_objects():
    found, truths = scene(3)
    one, two = (voc_average_precision(found, truths, k) for k in (1, 2))
    numbers = voc_metrics(found, truths, ("a", "b", "c"))
    assert numbers["mAP"] == pytest.approx((one + two) / 2) and numbers["AP c"] != numbers["AP c"]
    assert (numbers["AP a"], numbers["AP b"]) == pytest.approx((one, two))


def test_bad_input_is_named():
    found, truths = scene(3)
    with pytest.raises(ValueError, match="detections are of 3 images"): voc_metrics(found[:3], truths, ("a", "b"))
    with pytest.raises(ValueError, match="class_names has 1"): voc_metrics(found, truths, ("a",))
    inside_out = [truths[0] | dict(boxes=-truths[0]["boxes"]), *truths[1:]]
    with pytest.raises(ValueError, match="x0 <= x1"): voc_metrics(found, inside_out, ("a", "b"))


# training and fine-tuning


TINY = dict(d_model=16, n_heads=2, n_enc_layers=1, n_dec_layers=2, dim_ff=24, backbone_name="convnet", norm="group")


def test_a_tiny_training_and_both_scores(tree):
    train, test = PascalVOC(tree, short=40, passes=100), PascalVOC(tree, "test", short=40)
    model = DETR(20, 5, class_names=list(VOC_CLASSES), **TINY)
    model, history = train_detr(2, 2, recipe=LAPTOP, data=train, val=test, model=model, progress=False, device="cpu")
    assert 0 <= evaluate_voc(model, test)["mAP"] <= 1 and evaluate(model, test)["AP50"] == history[-1]["AP50"]


def test_a_start_keeps_all_but_the_head_and_freezes_what_it_is_told(tree):
    torch.manual_seed(0)
    model = DETR(3, 4, **TINY)
    new = start_from(model, ["a", "b"], num_queries=6, freeze=("backbone", "encoder"), seed=1)
    assert new.class_names == ["a", "b"] and torch.equal(new.query_embed.weight[:4], model.query_embed.weight)
    frozen = {n for n, p in new.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in new.named_parameters() if n.startswith(("backbone", "encoder"))}
    again, other = (start_from(model, ["a", "b"], num_queries=6, seed=s) for s in (1, 2))
    assert torch.equal(new.heads.class_head.weight, again.heads.class_head.weight)
    assert not torch.equal(new.heads.class_head.weight, other.heads.class_head.weight)
    assert start_from("toy", ["x"]).class_names == ["x"]
    with pytest.raises(ValueError, match="no parameter's name begins with 'backbones'"):
        start_from(model, ["a"], freeze=("backbones",))
