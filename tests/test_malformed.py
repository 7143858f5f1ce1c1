"""Data sets with one thing wrong each (tests/malformed.py): what the check says, and what a training does; then random damage."""
import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import MAKE, NAMES, ROWS, TRAIN, XML, whole

from detr_lit.folders import STOPS, Fault, check_data, open_dataset


def names(form): return dict(class_names=NAMES) if form == "pairs" else {}


def go_through(data, form):
    "All items of both sides, as a training and an evaluation would; they keep to the contract."
    seen = 0
    for side in open_dataset(data, short=24, passes=1, **names(form)):
        for i in range(len(side)):
            image, target = side[i]
            assert image.dtype == torch.float32 and len(image) == 3 and 0 <= image.min() and image.max() <= 1
            boxes = target["boxes"]
            assert boxes.shape == (len(target["labels"]), 4) and boxes.isfinite().all() and (boxes[:, 2:] > 0).all()
            assert ((boxes >= -1e-6) & (boxes <= 1 + 1e-6)).all()
            assert all(1 <= k <= len(side.class_names) for k in target["labels"].tolist())
            seen += len(boxes)
    return seen


def outcome(data, form):
    "None if a training goes on, else what it stops with."
    try: go_through(data, form)
    except (ValueError, FileNotFoundError) as error: return str(error)


@pytest.mark.parametrize("form", MAKE)
def test_a_whole_data_set_has_no_fault(tmp_path, form):
    data = whole(form, tmp_path / "whole")
    report = check_data(data, **names(form))
    assert report.ok and not report.faults and sum(p["images"] for p in report.parts.values()) in (12, 16)
    assert outcome(data, form) is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.form}: {row.broken}")
def test_a_fault_is_named_and_a_training_does_what_is_said(tmp_path, row, caplog):
    data = row.make(tmp_path / "data")
    report = check_data(data, **names(row.form))
    found = [f for f in report.faults if f.file.endswith(row.file) and row.says in f.what and row.then in f.then]
    assert found, "\n".join(map(str, report.faults)) or "no fault"
    assert (found[0].severity == "error") == (row.then == STOPS) == (not report.ok)
    with caplog.at_level(logging.WARNING): stopped = outcome(data, row.form)
    if row.then == STOPS: assert stopped and row.file in stopped
    else: assert stopped is None
    if found[0].then in ("the image is left out", "the object is left out"): assert row.file in caplog.text


def test_rows_are_many_and_none_twice():
    assert len(ROWS) > 100 and len({(r.form, r.broken) for r in ROWS}) == len(ROWS)
    assert {"COCO", "VOC", "pairs"} == {r.form for r in ROWS}


def test_a_few_bad_files_among_many_are_counted(tmp_path, caplog):
    data = whole("COCO", tmp_path / "coco")
    coco = json.loads((data / TRAIN).read_text())
    for k in (0, 3, 9): coco["annotations"][k]["bbox"] = None
    (data / TRAIN).write_text(json.dumps(coco))
    with caplog.at_level(logging.WARNING): sides = open_dataset(data, short=24, passes=1)
    assert "the object is left out (3)" in caplog.text and len(sides.train) == 12
    coco["annotations"][12]["bbox"] = None
    (data / TRAIN).write_text(json.dumps(coco))
    says = "instances_train.json: 4 of 36 objects can't be used as they are, more than 10%.*bbox"
    with pytest.raises(ValueError, match=says):
        open_dataset(data)
    assert open_dataset(data, tolerance=.2)


def test_errors_come_with_every_file(tmp_path):
    data = whole("COCO", tmp_path / "coco")
    for file in data.glob("annotations/*.json"): file.write_text("{")
    report = check_data(data)
    assert [Path(f.file).name for f in report.faults] == ["instances_train.json", "instances_val.json"] and not report.ok
    assert all(isinstance(f, Fault) and f.then == STOPS for f in report.faults)


# random damage: never an error from deep inside, and the check and the training agree

ODD = [[], {}, 0, 1, 2, 5, 9, 10, 13, [1, 2, 3, 4], [0.1, 0.1, 0.2, 0.2]]
JUNK = st.one_of(st.none(), st.booleans(), st.integers(-10**12, 10**12), st.floats(), st.text(max_size=3),
                 st.lists(st.floats(), max_size=5), st.sampled_from(ODD))
QUICK = settings(derandomize=True, deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))


def places(value, at=()):
    "Every place in a JSON value."
    yield at
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys: yield from places(value[key], (*at, key))


@pytest.mark.slow
@QUICK
@given(seed=st.randoms(use_true_random=False),
       damage=st.lists(st.tuples(st.sampled_from(["put", "drop", "twice"]), JUNK), min_size=1, max_size=4))
def test_any_json_is_read_or_named(tmp_path_factory, seed, damage):
    data = whole("COCO", tmp_path_factory.mktemp("coco"))
    coco = json.loads((data / TRAIN).read_text())
    for how, junk in damage:
        at = seed.choice([p for p in places(coco) if p] or [()])
        if not at: break
        inside = coco
        for key in at[:-1]: inside = inside[key]
        if how == "put": inside[at[-1]] = junk
        elif how == "drop": del inside[at[-1]]
        elif isinstance(inside, list): inside.append(json.loads(json.dumps(inside[at[-1]])))
    (data / TRAIN).write_text(json.dumps(coco))
    agree(data, "COCO")


@pytest.mark.slow
@QUICK
@given(cut=st.integers(0, 900), rest=st.booleans(),
       put=st.sampled_from(["", "<", "&", "nan", "-5", "1e999", "\0", "</object>", "é", "<object/>", "0"]))
def test_any_xml_is_read_or_named(tmp_path_factory, cut, put, rest):
    data = whole("VOC", tmp_path_factory.mktemp("voc"))
    said = (data / XML).read_text()
    (data / XML).write_text(said[:cut] + put + (said[cut:] if rest else ""), "utf-8")
    agree(data, "VOC")


@pytest.mark.slow
@QUICK
@given(at=st.integers(0, 4000), with_=st.binary(max_size=6), cut=st.booleans())
def test_any_photograph_is_read_or_black(tmp_path_factory, at, with_, cut):
    data = whole("COCO", tmp_path_factory.mktemp("coco"))
    old = (data / "train/3.png").read_bytes()
    at = at % len(old)
    (data / "train/3.png").write_bytes(old[:at] + with_ + (b"" if cut else old[at + len(with_):]))
    assert agree(data, "COCO").ok


def agree(data, form):
    "A check never fails; it has errors if and only if a training stops, and then it has the training's words."
    report = check_data(data)
    stopped = outcome(data, form)
    assert report.ok == (stopped is None), (stopped, list(map(str, report.faults)))
    json.dumps(report.as_dict())
    assert str(report).endswith(("warning", "warnings"))
    return report
