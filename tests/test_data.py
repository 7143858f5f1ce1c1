"""detr_lit.data: the toy data set, padding and batches (chapter 00)."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from torch.utils.data import DataLoader
from torchvision.ops import box_convert, masks_to_boxes

from detr_lit.data import (
    SHAPES,
    ToyDetectionDataset,
    collate,
    pad_images,
    paint_scene,
    random_shape,
    shape_mask,
    show_boxes,
    tight_box,
)


def same(a, b):
    return torch.equal(a[0], b[0]) and all(torch.equal(a[1][k], b[1][k]) for k in ("boxes", "labels"))


# ------------------------------------------------------------------- shapes and boxes
@pytest.mark.parametrize("kind", range(len(SHAPES)))
def test_shape_fills_its_rectangle(kind):
    for h, w in [(12, 12), (13, 56), (56, 12), (31, 32), (40, 47)]:
        mask = shape_mask(kind, h, w)
        cx, cy, bw, bh = tight_box(mask)
        assert mask.shape == (h, w) and mask.dtype == bool
        assert h - bh == 0 and 0 <= w - bw <= 2 and abs(cx - w / 2) <= 1
        assert (mask == mask[:, ::-1]).all()  # no shape is handed


def test_shapes_differ():
    masks = [shape_mask(k, 40, 40) for k in range(len(SHAPES))]
    assert all((a != b).mean() > 0.08 for i, a in enumerate(masks) for b in masks[:i])


def test_tight_box_against_torchvision():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((9, 13)) < 0.06
        if not mask.any():
            continue
        x0, y0, x1, y1 = masks_to_boxes(torch.from_numpy(mask)[None])[0].tolist()  # from centre to centre of pixels
        corners = box_convert(torch.tensor(tight_box(mask)), "cxcywh", "xyxy").tolist()
        assert corners == [x0, y0, x1 + 1, y1 + 1]
    one = np.zeros((4, 4), bool)
    one[3, 0] = True
    assert tight_box(one) == (0.5, 3.5, 1, 1)


def test_random_shape_stays_inside_and_has_the_promised_size():
    rng = np.random.default_rng(0)
    for size in (32, 100, 128):
        for _ in range(300):
            kind, colour, (rows, cols), mask = random_shape(rng, size, 5)
            assert 0 <= kind < 5 and 0 <= rows.start < rows.stop <= size and 0 <= cols.start < cols.stop <= size
            assert min(mask.shape) >= size * 3 // 32 and max(mask.shape) <= size * 7 // 16
            assert ((0.1 <= colour) & (colour <= 1)).all()


# ------------------------------------------------------------------- scenes
def test_nobody_is_hidden_by_more_than_half():
    least = 1.0
    for i in range(150):
        _, owner, labels, area = paint_scene(np.random.default_rng(i), 128, 10, 8)
        seen = np.bincount(owner[owner >= 0], minlength=len(labels))
        assert len(seen) == len(area) == len(labels) and (seen >= area / 2).all() and (seen <= area).all()
        least = min(least, (seen / area).min())
    assert least < 0.6  # some are hidden by nearly half


def test_a_full_picture_holds_fewer_objects_than_wanted():
    rng, counts = np.random.default_rng(0), []
    for _ in range(3):
        _, owner, labels, area = paint_scene(rng, 32, 400, 3)
        seen = np.bincount(owner[owner >= 0], minlength=len(labels))
        counts.append(len(labels))
        assert len(seen) == len(labels) == len(area) and (seen >= area / 2).all()
    assert 3 < min(counts) and max(counts) < 100


def test_image_and_owner_agree():
    for i in range(60):
        image, owner, labels, _ = paint_scene(np.random.default_rng(i), 96, 6, 8)
        assert not image[:, owner < 0].any() and image.dtype == np.float32
        colours = [np.unique(image[:, owner == k], axis=1) for k in range(len(labels))]
        assert all(c.shape == (3, 1) and c.max() >= 0.1 for c in colours)
        as_bytes = {tuple((c[:, 0] * 255).round().astype(int)) for c in colours}
        assert len(as_bytes) == len(labels)  # told apart in an 8-bit file as well


# ------------------------------------------------------------------- the data set
@pytest.mark.parametrize("size,most,classes", [(128, 5, 3), (128, 1, 1), (96, 8, 8), (100, 3, 5), (33, 4, 8)])
def test_contract(size, most, classes):
    data = ToyDetectionDataset(60, size, most, classes)
    assert len(data) == 60 and data.class_names == SHAPES[:classes]
    counts, labels = set(), set()
    for image, target in data:
        boxes = target["boxes"]
        assert image.shape == (3, size, size) and image.dtype == torch.float32 and 0 <= image.min() < image.max() <= 1
        assert set(target) == {"boxes", "labels"}
        assert boxes.dtype == torch.float32 and target["labels"].dtype == torch.int64
        assert boxes.shape == (len(target["labels"]), 4) and 1 <= len(boxes) <= most
        corners = box_convert(boxes, "cxcywh", "xyxy") * size
        assert (boxes[:, 2:] > 0).all() and corners.min() > -1e-3 and corners.max() < size + 1e-3
        assert (corners - corners.round()).abs().max() < 1e-3  # edges of pixels
        counts.add(len(boxes))
        labels |= set(target["labels"].tolist())
    assert counts == set(range(1, most + 1)) and labels == set(range(1, classes + 1))


def test_defaults_are_the_syllabus():
    data = ToyDetectionDataset()
    assert (data.num_samples, data.image_size, data.max_objects, data.num_classes) == (1000, 128, 5, 3)
    assert same(data[3], ToyDetectionDataset(1000, 128, 5, 3)[3])


def test_boxes_fit_the_pixels_of_their_colour():
    data = ToyDetectionDataset(60, 100, 6, 8)
    for image, target in data:
        pixels = image.permute(1, 2, 0)
        masks = torch.stack([(pixels == c).all(-1) for c in pixels[pixels.any(-1)].unique(dim=0)])
        seen = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        said = box_convert(target["boxes"], "cxcywh", "xyxy") * 100
        assert len(seen) == len(said)
        assert sorted(map(tuple, seen.int().tolist())) == sorted(map(tuple, said.round().int().tolist()))


def test_an_unhidden_object_has_the_shape_of_its_label():
    checked = set()
    for image, target in ToyDetectionDataset(80, 128, 1, 8):
        (x0, y0, x1, y1) = (box_convert(target["boxes"], "cxcywh", "xyxy")[0] * 128).round().int().tolist()
        kind = int(target["labels"][0]) - 1
        mask = shape_mask(kind, y1 - y0, x1 - x0)
        if mask.all(0).any() or tight_box(mask) == ((x1 - x0) / 2, (y1 - y0) / 2, x1 - x0, y1 - y0):
            wrong = (image.amax(0)[y0:y1, x0:x1].numpy() > 0) != mask
            assert wrong.mean() < 0.1
            checked.add(kind)
    assert len(checked) == 8


def test_sample_depends_on_its_address_alone():
    data = ToyDetectionDataset(50)
    first = [data[i] for i in range(10)]
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert all(same(data[i], first[i]) for i in reversed(range(10)))
    assert all(same(ToyDetectionDataset(10**6)[i], first[i]) for i in range(10))  # however many there are
    data[0][0].zero_()
    assert same(data[0], first[0])  # a sample is the caller's own


def test_other_seed_split_or_index_is_another_sample():
    sets = [ToyDetectionDataset(20, split=split, seed=seed) for split in ("train", "val", "test") for seed in (0, 1)]
    images = [image for data in sets for image, _ in data]
    assert len({im.numpy().tobytes() for im in images}) == len(images)


def test_known_sample():
    "Weights and histories rest on these very pixels: a change here changes every recorded run."
    image, target = ToyDetectionDataset()[0]
    corners = (box_convert(target["boxes"], "cxcywh", "xyxy") * 128).round().int().tolist()
    assert (target["labels"].tolist(), int((image > 0).any(0).sum())) == ([1, 2, 3, 1, 3], 4727)
    assert corners == [[28, 24, 63, 64], [60, 65, 101, 104], [71, 2, 107, 52], [38, 43, 71, 68], [33, 56, 75, 105]]


def test_workers_give_the_same_samples():
    data = ToyDetectionDataset(24)
    loaded = list(DataLoader(data, batch_size=None, num_workers=2))
    assert len(loaded) == 24 and all(same(a, data[i]) for i, a in enumerate(loaded))


def test_indices():
    data = ToyDetectionDataset(7)
    assert same(data[-1], data[6]) and same(data[-7], data[0])
    assert same(data[np.int64(2)], data[2]) and same(data[torch.tensor(2)], data[2])
    for bad in (7, -8):
        with pytest.raises(IndexError, match="of 7"):
            data[bad]
    assert len(list(data)) == 7 and len(ToyDetectionDataset(0)) == 0
    huge = ToyDetectionDataset(10**12)
    assert len(huge) == 10**12 and len(huge[10**12 - 1][1]["labels"]) >= 1


@pytest.mark.parametrize("wrong", [dict(num_samples=-1), dict(image_size=31), dict(max_objects=0), dict(num_classes=0),
                                   dict(num_classes=9), dict(seed=-1), dict(seed=2**32), dict(split="training")])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ToyDetectionDataset(**wrong)


# ------------------------------------------------------------------- batches
def test_pad_images():
    images = [torch.rand(3, h, w) + 0.1 for h, w in [(5, 9), (8, 4), (8, 9)]]
    batch, mask = pad_images(images)
    assert batch.shape == (3, 3, 8, 9) and mask.shape == (3, 8, 9) and mask.dtype == torch.bool
    for image, row, hidden in zip(images, batch, mask):
        h, w = image.shape[1:]
        assert torch.equal(row[:, :h, :w], image)  # the image is top left
        assert (row == 0).all(0).equal(hidden) and not hidden[:h, :w].any()
    assert mask.sum((1, 2)).tolist() == [72 - 45, 72 - 32, 0]
    assert pad_images([images[0].half()])[0].dtype == torch.float16


def test_pad_images_refuses():
    for bad, said in [([], "images is empty"), ([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)], "image 1"),
                      ([torch.zeros(3, 4, 4, dtype=torch.uint8)], "uint8")]:
        with pytest.raises(Exception) as e:  # with the checks of shapes on, jaxtyping may be first
            pad_images(bad)
        assert said in str(e.value) or "images" in str(e.value)
        with pytest.raises(ValueError, match=said):
            pad_images.__wrapped__(bad)


def test_collate_and_loader():
    empty = (torch.rand(3, 40, 90), dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)))
    sample = ToyDetectionDataset(1, 64)[0]
    images, mask, targets = collate([sample, empty])
    assert images.shape == (2, 3, 64, 90) and mask[0, :, 64:].all() and mask[1, 40:].all()
    assert targets[0] is sample[1] and targets[1]["boxes"].shape == (0, 4)  # fractions of the unpadded image: untouched
    batches = list(DataLoader(ToyDetectionDataset(10), 4, collate_fn=collate))
    assert [len(t) for _, _, t in batches] == [4, 4, 2] and not any(m.any() for _, m, _ in batches)


# ------------------------------------------------------------------- drawing
@pytest.mark.parametrize("style", ["default", Path(__file__).parents[1] / "nbs/matplotlibrc"])
def test_names_can_be_read_on_every_colour_of_a_class(style):
    with plt.style.context(style):
        fig, ax = plt.subplots()
        show_boxes(ax, None, torch.rand(8, 4), torch.arange(1, 9))
    assert len(ax.texts) == 8
    for text in ax.texts:
        behind, letters = (to_rgb(c) for c in (text.get_bbox_patch().get_facecolor(), text.get_color()))
        light, dark = sorted((sum(w * (c / 12.92 if c <= .04045 else ((c + .055) / 1.055) ** 2.4)
                                  for w, c in zip((.2126, .7152, .0722), rgb)) for rgb in (behind, letters)), reverse=True)
        assert (light + .05) / (dark + .05) > 4.5                              # WCAG's contrast
    plt.close(fig)


def test_show_boxes_draws_where_the_box_is():
    fig, ax = plt.subplots()
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.9, 0.05, 0.1, 0.1]], requires_grad=True)
    show_boxes(ax, torch.rand(3, 50, 100), boxes, torch.tensor([1, 2]), ["cat", "dog"])
    first = ax.patches[0].get_bbox()
    assert np.allclose([first.x0, first.y0, first.x1, first.y1], [40, 15, 60, 35], atol=1e-4)
    assert [t.get_text() for t in ax.texts] == ["cat", "dog"]
    assert ax.patches[0].get_edgecolor() != ax.patches[1].get_edgecolor()
    assert ax.get_xlim() == (0, 100) and ax.get_ylim() == (50, 0)
    plt.close(fig)


@pytest.mark.parametrize("labels,texts", [(None, []), (torch.tensor([3, 1]), ["3", "1"]), (["a", ""], ["a"])])
def test_show_boxes_labels(labels, texts):
    fig, ax = plt.subplots()
    show_boxes(ax, None, torch.rand(2, 4), labels, colors=["C5", "C6"])
    assert [t.get_text() for t in ax.texts] == texts and len(ax.patches) == 3
    show_boxes(ax, torch.rand(3, 8, 8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    plt.close(fig)
