"""Exercise 4: who answers is matching's word, information equals a plain count, and the test is right by chance and by rule."""

import math
from collections import Counter

import torch

from detr_lit.data import ToyDetectionDataset
from detr_lit.detr import DETR
from detr_lit.ladder import LADDER, rung
from detr_lit.matcher import HungarianMatcher
from detr_lit.specialisation import mutual_information, shuffle_test, watching, who_answers
from detr_lit.train import load_or_train

EXAM = ToyDetectionDataset(7, split="test", seed=7)
TOY = DETR.from_pretrained("toy")


def test_one_query_an_object_in_the_objects_order():
    queries, targets = who_answers(TOY, EXAM, batch_size=3), [t for _, t in EXAM]
    assert len(queries) == sum(len(t["labels"]) for t in targets)
    start = 0
    for image, target in EXAM:
        with torch.no_grad(): outputs = TOY(image[None])
        (query, number), = HungarianMatcher()(outputs, [target])
        mine = queries[start:start + len(query)]
        assert dict(zip(number.tolist(), query.tolist())) == dict(enumerate(mine))
        start += len(query)


def test_who_answers_leaves_the_model_as_it_was():
    TOY.train()
    who_answers(TOY, EXAM)
    assert TOY.training
    TOY.eval()
    turned = [(image, {k: v.flip(0) for k, v in t.items()}) for image, t in EXAM]
    sizes = [len(t["labels"]) for _, t in EXAM]
    flipped = [list(part)[::-1] for part in torch.tensor(who_answers(TOY, turned)).split(sizes)]
    assert [int(q) for part in flipped for q in part] == who_answers(TOY, EXAM)


def test_information_by_counting():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 5, (3, 200), generator=g), torch.randint(0, 4, (200,), generator=g)
    for row, bits in zip(a, mutual_information(a, b)):
        pa, pb, pab = (Counter(x) for x in (row.tolist(), b.tolist(), zip(row.tolist(), b.tolist())))
        plain = sum(n / 200 * math.log2(n * 200 / (pa[x] * pb[y])) for (x, y), n in pab.items())
        assert abs(bits - plain) < 1e-5
    assert abs(mutual_information(b, b) - mutual_information(b * 3, 3 - b)) < 1e-6          # names don't matter
    assert mutual_information(torch.zeros(200, dtype=torch.int64), b).abs() < 1e-6


def test_a_shuffle_keeps_every_picture_s_queries():
    "Pictures of one object can't be dealt anew, so nothing can be shown."
    g = torch.Generator().manual_seed(0)
    queries, kind = torch.randint(0, 6, (300,), generator=g), torch.randint(0, 3, (300,), generator=g)
    bits, null, p = shuffle_test(queries, kind, torch.arange(300), rounds=20)
    assert torch.allclose(null, torch.tensor(bits)) and p == 1
    order = torch.randperm(300, generator=g)                             # pictures need not come in order
    owner, pair = torch.randint(0, 4, (150,), generator=g).repeat_interleave(2), torch.arange(150).repeat_interleave(2)
    bits, null, p = shuffle_test(owner[order], (owner % 2)[order], pair[order], rounds=20)      # one query a picture
    assert bits > .9 and torch.allclose(null, torch.tensor(bits)) and p == 1
    within, picture = torch.arange(300) // 2, torch.arange(300) // 2
    queries, kind = within % 2 * 2 + torch.arange(300) % 2, torch.arange(300) % 2
    once, mixed = (shuffle_test(queries[o], kind[o], picture[o], rounds=50) for o in (torch.arange(300), order))
    assert abs(once[0] - mixed[0]) < 1e-6 and once[2] == mixed[2] == 1 / 51 and abs(once[1].mean() - mixed[1].mean()) < .02


def test_p_values_of_pure_chance_are_spread_evenly():
    g = torch.Generator().manual_seed(3)
    picture = torch.arange(120) // 3
    ps = []
    for seed in range(120):
        queries = torch.cat([torch.randperm(5, generator=g)[:3] for _ in range(40)])
        ps.append(shuffle_test(queries, torch.randint(0, 4, (120,), generator=g), picture, rounds=99, seed=seed)[2])
    ps = torch.tensor(ps)
    assert .4 < ps.mean() < .6 and (ps <= .1).float().mean() < .2 and ps.min() >= .01


def test_a_training_notes_who_answers(tmp_path):
    recipe = rung(LADDER["places in values"], num_queries=6, d_model=32, dim_ff=32)
    ask = dict(recipe=recipe, batch_size=2, task="t", val=EXAM, eval_every=1, progress=False, measure=watching(EXAM, (1, 3)))
    run = load_or_train(tmp_path, 3, **ask)
    assert [look["step"] for look in run["seen"]] == [1, 3] and load_or_train(tmp_path, 3, **ask)["loaded"]
    assert all(0 <= q < 6 for look in run["seen"] for q in look["query"])


def test_the_starts_differ_in_one_thing():
    a, b = LADDER["places in values"], LADDER["queries on a grid"]
    assert b.model == a.model | dict(query_grid=True) and {k: v for k, v in vars(a).items() if k != "model"} == {
        k: v for k, v in vars(b).items() if k != "model"}
