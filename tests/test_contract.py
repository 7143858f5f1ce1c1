"""The failure contract, entry by entry: bad input gets a ValueError or TypeError (FileNotFoundError for what is not there)
that names the argument, what it got and what it wants, before anything has changed; never an error from deep inside
torch, never a wrong answer without a word.

Everything runs twice: with the checks of shapes that conftest switches on, and on a copy of the package as users import
it, without them. What other test files try already (test_matcher, test_detr, test_datasets, ...) is not tried again.

Where values are looked at: a NaN in a picture is named by `collate` and `predict`; `DETR.forward` looks at types and
shapes only, answers with NaN, and matcher, loss and `postprocess` name that. Masks that hide a whole picture are legal.
"""

import importlib
import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import nan, tensor
from typer.testing import CliRunner

MODULES = ("backbone", "cli", "data", "datasets", "decoder", "deformable", "denoising", "detr", "duplicates",
           "encoder", "evaluate", "export", "folders", "gaze", "heads", "inference", "ladder", "launch", "layers", "loss",
           "matcher", "position", "pretrained", "queries", "specialisation", "speed", "train", "voc")
SMALL = dict(num_queries=5, d_model=16, n_heads=2, n_enc_layers=1, n_dec_layers=2, dim_ff=32, backbone_name="convnet",
             stride=16, norm="batch")
QUICK = settings(derandomize=True, deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


def package(checked: bool) -> SimpleNamespace:
    "The package's modules; those without checks are imported afresh, past the hook that adds the checks."
    def load(): return SimpleNamespace(**{m: importlib.import_module(f"detr_lit.{m}") for m in MODULES})
    if checked: return load()
    def ours(): return [n for n in sys.modules if n.split(".")[0] == "detr_lit"]
    kept, hooks = {n: sys.modules.pop(n) for n in ours()}, sys.meta_path[:]
    sys.meta_path[:] = [h for h in hooks if not type(h).__module__.startswith("jaxtyping")]
    try: return load()
    finally:
        for n in ours(): del sys.modules[n]
        sys.modules.update(kept)
        sys.meta_path[:] = hooks


PLAIN, CHECKED = package(False), package(True)
both = pytest.mark.parametrize("lib", [PLAIN, CHECKED], ids=["plain", "checked"])


def refused(call, says: str) -> None:
    "The call raises what the contract allows, in words that match; a check of shapes may be quicker."
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as e: call()
    if not isinstance(e.value, TypeCheckError): assert re.search(says, str(e.value), re.S), f"{e.value!r} lacks {says!r}"


def model_of(lib, **changes):
    torch.manual_seed(0)
    return lib.detr.DETR(3, **SMALL | changes).eval()


def target(m=1, **changes):
    return dict(labels=torch.arange(m) % 3 + 1, boxes=tensor([[.5, .5, .2, .2]]).repeat(m, 1)) | changes


def outputs(b=2, n=5):
    layer = dict(pred_logits=torch.zeros(b, n, 4), pred_boxes=torch.full((b, n, 4), .5))
    return layer | dict(aux_outputs=[dict(layer)])


def found(**changes):
    return dict(scores=tensor([.9]), labels=tensor([1]), boxes=tensor([[0., 0, 10, 10]])) | changes


def image(*size, fill=.5): return torch.full((3, *(size or (48, 64))), fill)


def test_the_two_copies_differ_in_the_checks():
    bad = torch.zeros(2, 3)
    assert PLAIN.data is not CHECKED.data and PLAIN.detr.pad_images is PLAIN.data.pad_images
    with pytest.raises(TypeCheckError): CHECKED.position.PositionalEncoding2D(8)(bad)
    with pytest.raises(ValueError) as e: PLAIN.position.PositionalEncoding2D(8)(bad)
    assert not isinstance(e.value, TypeCheckError)


class Sized(list):
    "A data set of a list."
    class_names = ("a", "b", "c")


PARTS = [
    (lambda L: L.pretrained.load_official({}), "not the weights of the official detector"),
    (lambda L: L.pretrained.load_official("nowhere.pth"), "nowhere.pth"),
    (lambda L: L.pretrained.refit(model_of(L), class_names=[]), "num_classes is 0"),
    (lambda L: L.pretrained.refit(model_of(L), num_queries=0), "num_queries is 0"),
    (lambda L: L.pretrained.official_size(480, 0), "sides are .480, 0, 800"),
    (lambda L: L.pretrained.evaluate_coco(model_of(L), "nowhere"), "instances_val2017.json is not there"),
    (lambda L: L.pretrained.as_transformers(model_of(L)), "transformers has no such DETR: norm='batch'"),
    (lambda L: L.export.AsFunction(model_of(L))(torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 60) > 0), "mask is"),
    # speed
    (lambda L: L.speed.alternate({}), r"functions are \[\]; wanted at least one"),
    (lambda L: L.speed.alternate(dict(a=list), 0), "repeats is 0"),
    (lambda L: L.speed.speedup(dict(a=[1.], b=[1.]), "a", "c"), r"'c' is none of \['a', 'b'\]"),
    (lambda L: L.speed.speedup(dict(a=[1.], b=[1., 2.]), "a", "b"), "a has 1 rounds, b has 2"),
    (lambda L: L.speed.count_flops(3), "function is a int"),
    (lambda L: L.speed.parts(torch.nn.Conv2d(3, 8, 1), image()[None]), "model is a Conv2d; wanted a DETR"),
    (lambda L: L.speed.parts(model_of(L), image()), r"\[3, 48, 64\]"),
    (lambda L: L.speed.matmul_peak(31), "n is 31"),
    (lambda L: L.speed.fold_norm(torch.nn.Conv2d(3, 8, 1), torch.nn.GroupNorm(2, 8)), "running statistics"),
    (lambda L: L.speed.fold_norm(torch.nn.Conv2d(3, 8, 1), torch.nn.BatchNorm2d(4)), "of 8 channels"),
    (lambda L: L.speed.fold_norms(3), "model is a int"),
    (lambda L: L.speed.for_inference(torch.nn.Conv2d(3, 8, 1)), "model is a Conv2d; wanted a DETR"),
    (lambda L: L.speed.for_inference(model_of(L))(image()), r"\[3, 48, 64\]"),
    (lambda L: L.speed.fit_exponent([1, 2], [1]), r"values \[1\]; wanted two or more"),
    (lambda L: L.speed.fit_exponent([2, 2], [1, 1]), "wanted two or more"),
    (lambda L: L.speed.fit_exponent([0, 2], [1, 1]), "above 0"),
    (lambda L: L.speed.fit_exponent([1, 2], [1, nan]), "above 0"),
    # data
    (lambda L: L.data.ToyDetectionDataset(image_size=64.5), "image_size is 64.5; it must be a whole number"),
    (lambda L: L.data.ToyDetectionDataset(num_samples="9"), "num_samples is '9'"),
    (lambda L: L.data.ToyDetectionDataset(seed=nan), "seed is nan"),
    (lambda L: L.data.pad_images([image().numpy()]), "image 0 is .*ndarray.*must be a tensor"),
    (lambda L: L.data.pad_images([image(), image(0, 4)]), r"image 1 is torch.float32 \[3, 0, 4\]"),
    (lambda L: L.data.collate([]), "samples are"),
    (lambda L: L.data.collate([image()]), r"samples are \['Tensor'\].*pairs"),
    (lambda L: L.data.collate([(image(), target()), (image(fill=nan), target())]), r"images\[1\] runs from nan"),
    (lambda L: L.data.collate([(image(fill=torch.inf), target())]), r"images\[0\] runs from inf"),
    (lambda L: L.data.collate([(image(fill=200.), target())]), r"images\[0\] runs from 200 .*\[0, 1\]"),
    (lambda L: L.data.show_boxes(None, None, torch.zeros(2, 4), tensor([1])), "labels are 1; there are 2 boxes"),
    (lambda L: L.data.show_boxes(None, None, torch.zeros(1, 4), tensor([1]), colors=[]), "colors are 0; there are 1"),
    (lambda L: L.data.show_boxes(axes(), None, torch.zeros(1, 4), tensor([0]), ["a"]), r"labels are \[0\].*1 to 1"),
    (lambda L: L.data.show_boxes(axes(), None, torch.zeros(1, 4), tensor([2]), ["a"]), r"labels are \[2\].*1 to 1"),
    # backbone
    (lambda L: L.backbone.Backbone(8, "convnet", norm="batch")(torch.rand(2, 4, 32, 32)), r"\[2, 4, 32, 32\].*\[B, 3, H, W\]"),
    (lambda L: L.backbone.Backbone(8, "convnet", norm="batch")(torch.rand(3, 32, 32)), r"\[3, 32, 32\].*\[B, 3, H, W\]"),
    # position
    (lambda L: L.position.PositionalEncoding2D(0), "d_model is 0"),
    (lambda L: L.position.PositionalEncoding2D(8, 0.0), "temperature is 0.0"),
    (lambda L: L.position.PositionalEncoding2D(8, -20.0), "temperature is -20.0"),
    (lambda L: L.position.PositionalEncoding2D(8, nan), "temperature is nan"),
    (lambda L: L.position.LearnedPositionalEncoding2D(0), "d_model is 0"),
    (lambda L: L.position.LearnedPositionalEncoding2D(8, 0), "size is 0"),
    (lambda L: L.position.PositionalEncoding2D(8)(torch.zeros(2, 8, 3, 4), torch.zeros(2, 3, 4)), "mask is torch.float32"),
    (lambda L: L.position.PositionalEncoding2D(8)(torch.zeros(2, 8, 3, 4), torch.ones(2, 3, 4).int()), "mask is torch.int32"),
    (lambda L: L.position.LearnedPositionalEncoding2D(8)(torch.zeros(8, 3, 4)), r"features are \[8, 3, 4\]"),
    # encoder, decoder
    (lambda L: L.encoder.TransformerEncoderLayer(16, 0), "n_heads, which is 0"),
    (lambda L: L.decoder.TransformerDecoderLayer(16, 0), "n_heads, which is 0"),
    (lambda L: L.decoder.TransformerDecoder(2, skip_self_attention=[2]), r"skip_self_attention holds \[2\].*0 to 1"),
    (lambda L: L.detr.DETR(3, **SMALL, skip_self_attention=(-1,)), r"skip_self_attention holds \[-1\]"),
    (lambda L: L.encoder.TransformerEncoder(-1), "n_layers is -1"),
    (lambda L: L.encoder.TransformerEncoderLayer(16, 2, dropout=1.5), "dropout.*1.5"),
    (lambda L: encode(L, x=torch.zeros(2, 6, 8)), r"tokens are \[2, 6, 8\].*\[B, L, 16\]"),
    (lambda L: encode(L, pos=torch.zeros(1, 6, 16)), r"positions \[1, 6, 16\]"),
    (lambda L: encode(L, mask=torch.zeros(2, 6)), r"mask is torch.float32 \[2, 6\]; wanted bool"),
    (lambda L: encode(L, mask=torch.zeros(2, 7, dtype=torch.bool)), r"mask is torch.bool \[2, 7\]; wanted bool \[2, 6\]"),
    (lambda L: decode(L, tgt=torch.zeros(2, 3, 8)), r"tokens are \[2, 3, 8\]"),
    (lambda L: decode(L, query_pos=torch.zeros(2, 4, 16)), r"positions \[2, 4, 16\]"),
    (lambda L: decode(L, memory=torch.zeros(2, 6, 8)), r"tokens are \[2, 6, 8\]"),
    (lambda L: decode(L, mask=torch.zeros(2, 6)), "mask is torch.float32"),
    (lambda L: decode(L, tgt=torch.zeros(1, 3, 16), query_pos=torch.zeros(1, 3, 16)), "slots are of 1 images, memory of 2"),
    # duplicates, layers
    (lambda L: L.duplicates.suppress([], 1.5), "iou_threshold is 1.5; .* 0 to 1"),
    (lambda L: L.duplicates.claims_on([], [{}]), "detections are of 0 images, truths of 1"),
    (lambda L: L.duplicates.claims_on([], [], nan), "iou_threshold is nan"),
    (lambda L: L.duplicates.every_layer(L.detr.DETR(3, **SMALL), []), "dataset is empty"),
    (lambda L: deaf_to(L, 2), r"layers are \[2\]; .* 0 to 1"),
    # gaze
    (lambda L: gaze(L, "Gaze", ask=torch.zeros(2, 3, 8)), r"ask is \[2, 3, 8\]"),
    (lambda L: gaze(L, "Gaze", box=torch.zeros(1, 3, 4)), r"box \[1, 3, 4\]"),
    (lambda L: gaze(L, "Points", cells=torch.zeros(1, 4, 5, 2)), r"cells \[1, 4, 5, 2\]"),
    (lambda L: gaze(L, "Points", hidden=torch.zeros(2, 4, 5, dtype=torch.bool)), r"hidden is torch.bool \[2, 4, 5\]"),
    (lambda L: gaze(L, "Gaze", hidden=torch.zeros(2, 20)), "hidden is torch.float32"),
    # deformable
    (lambda L: L.deformable.check_levels([], 0), r"shapes are \[\]; wanted pairs"),
    (lambda L: L.deformable.check_levels([(4, 5), (2, 3)], 20), r"shapes are \[\(4, 5\), \(2, 3\)\]; .*20 cells"),
    (lambda L: L.deformable.check_levels([(-4, -5)], 20), "shapes are .*-4"),
    (lambda L: L.deformable.check_levels([(4.0, 5)], 20), "shapes are .*4.0"),
    (lambda L: L.deformable.check_levels([(4, 5, 1)], 20), r"pairs \(rows, columns\)"),
    (lambda L: sample(L, value=torch.zeros(2, 26, 8)), r"value is \[2, 26, 8\].*\[B, L, heads, d\]"),
    (lambda L: sample(L, value=torch.zeros(1, 26, 2, 4)), r"value is \[1, 26, 2, 4\]"),
    (lambda L: sample(L, value=torch.zeros(2, 25, 2, 4)), "25 cells"),
    (lambda L: sample(L, locations=torch.zeros(2, 3, 2, 2, 4, 3)), r"locations \[2, 3, 2, 2, 4, 3\]"),
    (lambda L: sample(L, locations=torch.zeros(2, 3, 1, 2, 4, 2)), r"locations \[2, 3, 1, 2, 4, 2\]"),
    (lambda L: sample(L, weights=torch.zeros(2, 3, 2, 8)), r"weights \[2, 3, 2, 8\].*\[B, N, heads, 2, P\]"),
    (lambda L: sample(L, shapes=[(4, 5)]), r"wanted .*\[B, N, heads, 1, P\]"),
    (lambda L: L.deformable.rays(0, 4), "n_heads is 0"),
    (lambda L: L.deformable.rays(8, 0), "n_points 0"),
    (lambda L: L.deformable.MultiScaleDeformableAttention(16, 2, 3), "n_heads 3, .*divide d_model"),
    (lambda L: L.deformable.MultiScaleDeformableAttention(16, 0, 2), "n_levels 0"),
    (lambda L: L.deformable.MultiScaleDeformableAttention(0), "d_model is 0"),
    (lambda L: L.deformable.DeformableEncoderLayer(16, 2, n_points=0), "n_points 0"),
    (lambda L: deform(L, query=torch.zeros(2, 3, 8)), r"query is \[2, 3, 8\]"),
    (lambda L: deform(L, memory=torch.zeros(1, 26, 16)), r"memory \[1, 26, 16\]"),
    (lambda L: deform(L, reference=torch.zeros(2, 3, 2)), r"reference is \[2, 3, 2\].*\[2, 3, 2\] and 2 or 4"),
    (lambda L: deform(L, reference=torch.zeros(2, 3, 2, 3)), "2 or 4 numbers"),
    (lambda L: deform(L, reference=torch.zeros(2, 3, 1, 2)), r"reference is \[2, 3, 1, 2\]"),
    (lambda L: deform(L, shapes=[(4, 5), (2, 2), (1, 2)]), "shapes are of 3 levels; wanted 2"),
    (lambda L: deform(L, shapes=[(4, 5), (2, 2)]), "26 cells"),
    (lambda L: deform(L, mask=torch.zeros(2, 26)), "mask is torch.float32"),
    (lambda L: deform(L, mask=torch.zeros(2, 20, dtype=torch.bool)), r"mask is torch.bool \[2, 20\]; wanted bool \[2, 26\]"),
    (lambda L: deform_layer(L, pos=torch.zeros(1, 26, 16)), r"positions \[1, 26, 16\]"),
    (lambda L: deform_layer(L, reference=torch.zeros(2, 20, 2, 2)), r"reference is \[2, 20, 2, 2\]"),
    (lambda L: L.deformable.valid_ratios([]), r"masks are \[\]; wanted bool"),
    (lambda L: L.deformable.valid_ratios([torch.zeros(2, 4, 5)]), "masks are .*float32"),
    (lambda L: L.deformable.reference_points([torch.zeros(2, 4, 5) > 0, torch.zeros(1, 2, 3) > 0]), r"\[1, 2, 3\].*wanted bool"),
    (lambda L: flat(L, masks=[torch.zeros(2, 4, 5) > 0]), "2 features, 2 positions, 1 masks"),
    (lambda L: flat(L, level_embed=torch.zeros(2, 8)), r"features\[0\] is .*level_embed \[2, 8\]"),
    (lambda L: flat(L, level_embed=torch.zeros(2)), r"level_embed \[2\]"),
    (lambda L: flat(L, masks=[torch.zeros(2, 4, 5) > 0, torch.zeros(2, 2, 4) > 0]), r"mask has shape \(2, 2, 4\)"),
    (lambda L: flat(L, features=[torch.zeros(2, 16, 4, 5), torch.zeros(2, 16, 3, 2)]), r"mask|features\[1\]"),
    (lambda L: flat(L, positions=[torch.zeros(2, 16, 4, 5), torch.zeros(1, 16, 2, 3)]), r"positions\[1\] \[1, 16, 2, 3\]"),
    # heads
    (lambda L: L.heads.DetrPredictionHeads(16)(torch.zeros(2, 5, 8)), r"x is \[2, 5, 8\].*\[B, N, 16\]"),
    (lambda L: L.heads.DetrPredictionHeads(16)(torch.zeros(2, 5, 16), torch.zeros(4, 4)), r"start \[4, 4\]"),
    # matcher
    (lambda L: L.matcher.HungarianMatcher(cost_giou=nan), "costs are"),
    (lambda L: match(L, target()), "targets is a dict; wanted a list"),
    (lambda L: match(L, [target(), None]), r"targets\[1\] is NoneType; wanted a dict"),
    (lambda L: match(L, [target(), dict(labels=tensor([1]))]), r"targets\[1\] is {'labels': 'Tensor'}"),
    (lambda L: match(L, [target(), target(boxes=[[.5, .5, .2, .2]])]), r"targets\[1\] is .*'boxes': 'list'"),
    (lambda L: match(L, [target(), target(labels=tensor(1))]), r"targets\[1\]\['labels'\] is torch.int64 \[\]"),
    (lambda L: match(L, [target(), target(boxes=tensor([[nan, .5, .2, .2]]))]), r"targets\[1\]\['boxes'\] holds \[nan"),
    (lambda L: match(L, [target(), target(boxes=tensor([[.5, .5, torch.inf, .2]]))]), r"\['boxes'\] holds .*inf"),
    (lambda L: match(L, [target(), target(boxes=tensor([[.2, .2, .1, -.1]]))]), "w and h > 0"),          # as from corners
    # loss
    (lambda L: L.loss.DetrLoss(0), "num_classes is 0"),
    (lambda L: L.loss.DetrLoss(3, weight_bbox=-1.0), "weights are"),
    (lambda L: L.loss.DetrLoss(3, noobj_weight=nan), "weights are"),
    (lambda L: L.loss.DetrLoss(3)(outputs(), []), "there are 0 targets"),
    (lambda L: L.loss.DetrLoss(3)(outputs(), target()), "targets|labels"),
    (lambda L: L.loss.set_statistics(outputs(), [target()], [(tensor([0]), tensor([0]))]), "2 images, targets 1, pairs 1"),
    (lambda L: L.loss.set_statistics(dict(pred_logits=torch.zeros(0, 5, 4)), [], []), "0 images"),
    (lambda L: L.loss.DetrLoss(3)(outputs() | dict(aux_outputs=[outputs(n=4)]), [target()] * 2), "one .* for all layers"),
    (lambda L: L.loss.DetrLoss(3)({k: v[0] for k, v in outputs().items() if k != "aux_outputs"}, [target()]), r"\[5, 4\]"),
    # detr
    (lambda L: model_of(L, num_queries=2.5), "num_queries is 2.5"),
    (lambda L: model_of(L, d_model=0), "d_model is 0"),
    (lambda L: model_of(L, n_heads=0), "n_heads is 0"),
    (lambda L: model_of(L, dim_ff=-1), "dim_ff is -1"),
    (lambda L: model_of(L, n_enc_layers=-1), "n_layers is -1"),
    (lambda L: model_of(L, temperature=0.0), "temperature is 0.0"),
    (lambda L: model_of(L, window=[208]), r"window is \[208\]"),
    (lambda L: model_of(L, window=[0, 128]), r"window is \[0, 128\]"),
    (lambda L: model_of(L)(image()[None].numpy()), "images is a ndarray"),
    (lambda L: model_of(L)((image(), image())), "images is a tuple; .*list"),
    (lambda L: model_of(L)([image(), None]), "image 1 is .*NoneType"),
    (lambda L: model_of(L)(image()[None], [[False]]), "mask is a list"),
    (lambda L: model_of(L)([]), "images is empty"),
    (lambda L: L.detr.postprocess(outputs(), tensor([[48, 64, 3]] * 2)), r"sizes is \[\[48, 64, 3\]"),
    (lambda L: L.detr.postprocess(outputs(), tensor([48, 64])), r"sizes is \[48, 64\]"),
    (lambda L: L.detr.postprocess(outputs(), tensor([[48, 64], [0, 64]])), r"sizes is .*\[0, 64\]"),
    (lambda L: L.detr.postprocess(outputs() | dict(pred_boxes=torch.full((2, 5, 4), nan)), tensor([[48, 64]] * 2)),
     r"pred_boxes\[0, 0, 0\] is nan"),
    # evaluate
    (lambda L: L.evaluate.coco_metrics([found()], [target(boxes=[0, 0, 1, 1])]), r"truths\[0\].*'boxes': 'list'"),
    (lambda L: L.evaluate.coco_metrics([None], [found()]), r"detections\[0\] wants the tensors boxes, labels, scores"),
    (lambda L: L.evaluate.coco_metrics([{k: found()[k] for k in ("labels", "boxes")}], [found()]), r"detections\[0\].*scores"),
    (lambda L: L.evaluate.coco_metrics([found(labels=tensor([1, 2]))], [found()]), r"detections\[0\]: .*'labels': \[2\]"),
    (lambda L: L.evaluate.coco_metrics([found(scores=tensor(.9))], [found()]), r"'scores': \[\]"),
    (lambda L: L.evaluate.coco_metrics([found()], [found(boxes=torch.zeros(1, 5))]), r"truths\[0\]: .*'boxes': \[1, 5\]"),
    (lambda L: L.evaluate.coco_metrics([found()], [found(iscrowd=tensor([0, 1]))]), r"'iscrowd': \[2\]"),
    (lambda L: L.evaluate.coco_metrics([found()], [found(area=tensor([nan]))]), "area want to be finite"),
    (lambda L: L.evaluate.coco_metrics([found(labels=tensor([1.5]))], [found()]), "whole numbers"),
    (lambda L: L.evaluate.class_metrics([found(labels=tensor([2]))], [found()], ["a"]), r"labels reach 2; class_names has 1"),
    (lambda L: L.evaluate.class_metrics([found()], [found()], ["a", "a"]), "each name once"),
    (lambda L: L.evaluate.class_metrics([found()], [], ["a"]), "detections are of 1 images, truths of 0"),
    (lambda L: L.evaluate.evaluate(model_of(L), [(image(), target(labels=tensor([4])))]), r"targets\[0\]\['labels'\] holds 4"),
    (lambda L: L.evaluate.evaluate(model_of(L), [(image(), target(boxes=tensor([[9., 9, 30, 40]])))]), r"\['boxes'\] holds"),
    (lambda L: L.evaluate.evaluate(model_of(L), [(image(fill=nan), target())]), r"images\[0\] runs from nan"),
    # queries
    (lambda L: L.queries.answers(model_of(L), [(image(), target())], batch_size=0), "batch_size is 0"),
    (lambda L: L.queries.answers(model_of(L), [(image(), target())], 1.5), "score_threshold is 1.5"),
    (lambda L: L.queries.answers(model_of(L), [(image(fill=nan), target())]), r"images\[0\] runs from nan"),
    (lambda L: L.queries.tally(dict(picture=[1], label=[1], box=[[.5, .5, .2, .2]]), [target()]), "picture 1; there are 1"),
    (lambda L: L.queries.tally(dict(picture=[0], label=[1]), [target()]), "'box': None"),
    (lambda L: L.queries.tally(dict(picture=[0, 0], label=[1], box=[[.5, .5, .2, .2]]), [target()]), "'picture': 2, 'label': 1"),
    # specialisation
    (lambda L: L.specialisation.who_answers(model_of(L), [(image(), target(7))]), r"targets\[0\] holds 7 objects"),
    (lambda L: L.specialisation.mutual_information(tensor([0, 1]), tensor([0])), r"a is \[2\], b \[1\]"),
    (lambda L: L.specialisation.mutual_information(tensor([], dtype=torch.int64), tensor([], dtype=torch.int64)), "one at least"),
    (lambda L: L.specialisation.mutual_information(tensor([0, -1]), tensor([0, 1])), "none below 0"),
    (lambda L: L.specialisation.shuffle_test(tensor([0, 1]), tensor([0, 1]), tensor([0])), "2 kinds, 1 pictures"),
    (lambda L: L.specialisation.shuffle_test(tensor([0, 1]), tensor([0, 1]), tensor([0, 0]), rounds=0), "0 rounds"),
    # train
    (lambda L: L.train.Recipe(schedule="linear"), "schedule is 'linear'"),
    (lambda L: L.train.Recipe(clip=0.0), "clip is 0.0"),
    (lambda L: L.train.Recipe(average=1.0), "average is 1.0"),
    (lambda L: L.train.Recipe(muon=nan), "muon is nan"),
    (lambda L: L.train.Recipe(warmup=-1), "warmup is -1"),
    (lambda L: L.train.Muon([torch.nn.Parameter(torch.zeros(3))]), r"params hold the shapes \[\[3\]\]"),
    *[(lambda L, k=k: train(L, **{k: 0}), f"{k} is 0")
      for k in ("num_steps", "batch_size", "log_every", "save_every", "accumulate")],
    (lambda L: train(L, accumulate=3), "batch_size is 2; 1 processes x accumulate 3 want 3"),
    (lambda L: L.train.plot_run("nowhere"), "nowhere holds neither log.jsonl nor run.json"),
    (lambda L: L.launch.split((torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8), [target(), target()]), 3), "parts is 3"),
    (lambda L: train(L, data=[(image(), target())]), "data is .*class_names"),
    (lambda L: train(L, data=Sized()), "one sample at least"),
    (lambda L: train(L, resume=True), "out is None"),
    (lambda L: train(L, data=Sized([(image(), target(7))] * 4)), r"targets\[0\] holds 7 objects; wanted at most 5"),
    (lambda L: train(L, data=Sized([(image(fill=nan), target())] * 4)), "runs from nan"),
    # inference
    (lambda L: L.inference.predict(model_of(L), [image().numpy()]), r"images\[0\] is a ndarray"),
    (lambda L: L.inference.predict(model_of(L), image(0, 64)), r"images\[0\] is torch.float32 \[3, 0, 64\]"),
    (lambda L: L.inference.predict(model_of(L), [image(), image(fill=nan)]), r"images\[1\] runs from nan"),
    (lambda L: L.inference.predict(model_of(L), image(), nan), "score_threshold is nan"),
    (lambda L: L.inference.predict_windows(model_of(L), image(), image_size=0), "image_size is 0"),
    (lambda L: L.inference.predict_windows(model_of(L), image(), batch_size=0), "batch_size 0"),
    (lambda L: L.inference.attention_maps(model_of(L), image(), torch.zeros(48, 63, dtype=torch.bool)), "mask is torch.bool"),
    (lambda L: L.inference.predict_and_visualize(model_of(L), image(), mask=torch.zeros(48, 64)), "mask is torch.float32"),
    (lambda L: L.inference.show_heads(model_of(L), image(), 5), "query is 5; the model has 0 to 4"),
    (lambda L: L.inference.show_heads(model_of(L), image(), -1), "query is -1"),
    (lambda L: L.inference.show_encoder_attention(model_of(L), image(), [(1, 1)], layer=1), "layer is 1; the encoder has 1"),
    (lambda L: L.inference.draw_detections(axes(), image(), found(labels=tensor([0])), ["a"]), r"labels are \[0\].*1 to 1"),
    # folders
    (lambda L: L.folders.open_dataset("nowhere"), "nowhere is not there. Looked for"),
    (lambda L: L.folders.open_dataset([1, 2]), "class_names None"),
    (lambda L: L.folders.open_dataset([1, 2], class_names=["a"], held_out=2), "held_out is 2, of 2 images"),
    (lambda L: L.folders.open_dataset([1, 2], class_names=["a"]).train[0], "item [01]: "),
    (lambda L: L.folders.check_data(3), "source is 3"),
    (lambda L: L.folders.load_coco("nowhere.json"), "nowhere.json"),
    (lambda L: L.folders.photo_size("nowhere.jpg"), "nowhere.jpg"),
    (lambda L: L.folders.PhotoFolder([], ["a"], training=True), "samples are 0"),
    (lambda L: L.folders.draw_sheet([]), "samples 0"),
    (lambda L: L.folders.draw_sheet("nowhere"), "Looked for"),
    (lambda L: L.folders.write_coco("nowhere", [(image(), target())], {1: "a"}), r"samples\[0\] is torch.float32"),
    (lambda L: L.folders.GroupedBatches(4, 2, 0, 0, 2, sizes=[]), "sizes are 0"),
    (lambda L: L.folders.GroupedBatches(4, 2, 0, 0, 2, sizes=[(3, 4)], pool=0), "pool is 0"),
    # datasets
    (lambda L: tiles(L, photo=torch.rand(3, 90, 90)), "photo is torch.float32"),
    (lambda L: tiles(L, photo=torch.zeros(90, 90, 3, dtype=torch.uint8)), r"photo is torch.uint8 \[90, 90, 3\]"),
    (lambda L: tiles(L, boxes=tensor([[9., 9, 4, 4]])), "x0 <= x1"),
    (lambda L: tiles(L, boxes=torch.zeros(1, 5)), r"'boxes': \[1, 5\]"),
    (lambda L: tiles(L, labels=tensor([1, 2])), r"'labels': \[2\]"),
    (lambda L: tiles(L, labels=tensor([0])), "labels want 1 or more"),
    # voc
    (lambda L: L.voc.PascalVOC("nowhere"), "trainval.txt is not there"),
    (lambda L: L.voc.PascalVOC("nowhere", "val"), "got 'val'"),
    (lambda L: L.voc.PascalVOC("nowhere", passes=0), "passes >= 1"),
    (lambda L: L.voc.PascalVOC("nowhere", short=4), "short is 4"),
    (lambda L: L.voc.voc_transforms(sides=(1, .5)), "sides is"),
    (lambda L: L.voc.RandomSizeCrop(6, 5), "least and most are 6 and 5"),
    (lambda L: L.voc.voc_metrics([found()], [], ("a", "b", "c")), "detections are of 1 images, truths of 0"),
    (lambda L: L.voc.voc_metrics([found(labels=tensor([9]))], [found()], ("a",)), "labels reach 9; class_names has 1"),
    (lambda L: L.voc.write_voc("nowhere", [(torch.rand(3, 9, 9), found())], ("a", "b", "c")), r"samples\[0\].*torch.float32"),
    (lambda L: L.voc.start_from(model_of(L), ["a"], freeze=["back", "bone"]), "begins with 'bone'"),
    (lambda L: L.voc.start_from(model_of(L), []), "num_classes is 0"),
    (lambda L: L.voc.tree_tiles("train", "nowhere"), "lacks"),
]


def axes():
    from matplotlib.figure import Figure
    return Figure().add_subplot()


def encode(L, x=None, pos=None, mask=None):
    x, pos = (torch.zeros(2, 6, 16) if t is None else t for t in (x, pos))
    return L.encoder.TransformerEncoder(2, d_model=16, n_heads=2)(x, pos, mask)


def decode(L, mask=None, **changes):
    parts = dict(tgt=torch.zeros(2, 3, 16), memory=torch.zeros(2, 6, 16), pos=torch.zeros(2, 6, 16),
                 query_pos=torch.zeros(2, 3, 16)) | changes
    return L.decoder.TransformerDecoder(2, d_model=16, n_heads=2)(**parts, mask=mask)


def deaf_to(L, *layers):
    with L.duplicates.deafened(L.detr.DETR(3, **SMALL), *layers): pass


def gaze(L, name, **changes):
    parts = dict(ask=torch.zeros(2, 3, 16), box=torch.full((2, 3, 4), .5), cells=torch.zeros(2, 4, 5, 2)) | changes
    return getattr(L.gaze, name)(16, 2)(**parts)


LEVELS = [(4, 5), (2, 3)]


def sample(L, **changes):
    parts = dict(value=torch.zeros(2, 26, 2, 4), shapes=LEVELS, locations=torch.zeros(2, 3, 2, 2, 4, 2),
                 weights=torch.zeros(2, 3, 2, 2, 4)) | changes
    return L.deformable.deformable_attention(**parts)


def deform(L, **changes):
    parts = dict(query=torch.zeros(2, 3, 16), reference=torch.zeros(2, 3, 2, 2), memory=torch.zeros(2, 26, 16),
                 shapes=LEVELS) | changes
    return L.deformable.MultiScaleDeformableAttention(16, 2, 2)(**parts)


def deform_layer(L, **changes):
    parts = dict(x=torch.zeros(2, 26, 16), pos=torch.zeros(2, 26, 16), reference=torch.zeros(2, 26, 2, 2), shapes=LEVELS)
    return L.deformable.DeformableEncoderLayer(16, 2, 32, n_levels=2)(**parts | changes)


def flat(L, **changes):
    maps = [torch.zeros(2, 16, h, w) for h, w in LEVELS]
    parts = dict(features=maps, positions=maps, masks=[m[:, 0] > 0 for m in maps], level_embed=torch.zeros(2, 16)) | changes
    return L.deformable.flatten_levels(**parts)


def match(L, targets): return L.matcher.HungarianMatcher()(outputs(), targets)


def train(L, num_steps=2, batch_size=2, **changes):
    recipe = L.train.Recipe(model=SMALL)
    data = L.data.ToyDetectionDataset(8, image_size=64, max_objects=2)
    return L.train.train_detr(num_steps, batch_size, **dict(recipe=recipe, data=data, progress=False) | changes)


def tiles(L, **changes):
    parts = dict(photo=torch.zeros(3, 90, 90, dtype=torch.uint8), boxes=tensor([[4., 4, 9, 9]])) | changes
    return L.datasets.PhotoTiles(**parts, window=45, image_size=32)


@both
@pytest.mark.parametrize("call, says", PARTS, ids=[s for _, s in PARTS])
def test_refused_by_name(lib, call, says):
    refused(lambda: call(lib), says)


# Files


def checkpoint(lib, tmp_path, **changes):
    train(lib, out=tmp_path, **changes)
    return tmp_path / "checkpoint.pt"


@both
def test_a_damaged_checkpoint_is_named(lib, tmp_path):
    file = checkpoint(lib, tmp_path)
    whole, size = file.read_bytes(), file.stat().st_size
    for n in (0, 1, 1000, size // 2, size - 1):
        file.write_bytes(whole[:n])
        refused(lambda: train(lib, out=tmp_path, resume=True), "checkpoint.pt is damaged")
        assert file.stat().st_size == n                                         # left as it was found
    torch.save(dict(model=torch.zeros(1)), file)
    refused(lambda: train(lib, out=tmp_path, resume=True), "checkpoint.pt is no checkpoint")
    torch.save(dict(this=SimpleNamespace()), file)                              # a pickle of more than plain values
    refused(lambda: train(lib, out=tmp_path, resume=True), "checkpoint.pt is damaged, or no checkpoint")


@both
@QUICK
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_any_checkpoint_is_read_or_named(lib, tmp_path_factory, at, byte, cut):
    file = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    lib.train.save_checkpoint(file, this={}, step=1, model=dict(w=torch.ones(9)))
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] = byte
    file.write_bytes(content[:int(at * len(content))] if cut else content)
    try: assert "this" in lib.train.load_checkpoint(file, {}, torch.device("cpu"))
    except ValueError as error: assert "checkpoint.pt is" in str(error)


@both
def test_a_checkpoint_of_another_architecture_lists_what_differs(lib, tmp_path):
    file = checkpoint(lib, tmp_path)
    before = file.read_bytes()
    two = lib.data.ToyDetectionDataset(8, image_size=64, max_objects=2, num_classes=2)
    refused(lambda: train(lib, out=tmp_path, resume=True, data=two),
            r"another training: data.classes is .*'triangle'\], wanted \['rectangle', 'ellipse'\]")
    wide = lib.detr.DETR(3, class_names=list(two.class_names) + ["triangle"], **SMALL | dict(dim_ff=64))
    refused(lambda: train(lib, out=tmp_path, resume=True, model=wide), r"another architecture: \d+ of its weights differ")
    assert file.read_bytes() == before


@both
def test_half_a_run_is_no_run(lib, tmp_path):
    ask = dict(recipe=lib.train.Recipe(model=SMALL), batch_size=2, val=lib.data.ToyDetectionDataset(2), progress=False)
    assert not lib.train.load_or_train(tmp_path, 1, **ask)["loaded"] and lib.train.load_or_train(tmp_path, 1, **ask)["loaded"]
    whole = (tmp_path / "run.json").read_text()
    for damaged in (whole[:-30], "{}", ""):
        (tmp_path / "run.json").write_text(damaged)
        assert not lib.train.load_or_train(tmp_path, 1, **ask)["loaded"]


@both
@pytest.mark.parametrize("change, says", [
    (lambda d: (d / "config.json").write_text("{"), "config.json"),
    (lambda d: (d / "config.json").write_text("[]"), "config.json"),
    (lambda d: (d / "config.json").write_text(json.dumps(dict(num_classes=0))), "num_classes is 0"),
    (lambda d: (d / "config.json").write_text("{}"), "another architecture"),
    (lambda d: (d / "model.safetensors").unlink(), "model.safetensors"),
    (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
], ids=["half", "list", "bad", "empty", "no weights", "empty weights"])
def test_weights_that_are_not_whole(lib, tmp_path, change, says):
    model_of(lib).save_pretrained(tmp_path)
    lib.detr.DETR.from_pretrained(tmp_path)
    change(tmp_path)
    refused(lambda: lib.detr.DETR.from_pretrained(tmp_path), says)


VOC = """<annotation><size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>"""


@both
@QUICK
@given(cut=st.integers(0, len(VOC)), put=st.sampled_from(["", "<", "&", "NaN", "-5", "1e999", "\0", "</object>", "é"]))
def test_any_xml_is_read_or_named(lib, tmp_path_factory, cut, put):
    file = tmp_path_factory.mktemp("voc") / "some.xml"
    for text in (VOC[:cut] + put, VOC[:cut] + put + VOC[cut:]):
        file.write_text(text, "utf-8")
        try: boxes, labels, names, (width, height) = lib.datasets.read_voc(file)
        except ValueError as error: assert "some.xml" in str(error)
        else:
            assert boxes.shape == (len(labels), 4) and boxes.isfinite().all() and (boxes[:, :2] < boxes[:, 2:]).all()
            assert ((boxes >= 0) & (boxes <= tensor([width, height] * 2))).all() and all(1 <= k <= len(names) for k in labels)


@pytest.mark.parametrize("command, says", [
    (["train", "--recipe", "desktop"], "recipe is 'desktop'"),
    (["train", "--resume", "--steps", "1"], "checkpoint.pt is damaged"),
    (["train", "--steps", "1", "--device", "abacus"], "abacus"),
    (["eval", "--weights", "nobody"], "'nobody'"),
    (["detect", "missing.png"], "missing.png"),
    (["detect", "--weights", "nobody", "missing.png"], "'nobody'"),
], ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_the_command_line_says_it_in_one_line(tmp_path, command, says):
    if command[0] == "train":
        (tmp_path / "out").mkdir()
        if "--resume" in command: (tmp_path / "out/checkpoint.pt").write_bytes(b"half")
        command = [*command, "--out", str(tmp_path / "out")]
    ran = CliRunner().invoke(PLAIN.cli.app, command)
    assert ran.exit_code == 1 and isinstance(ran.exception, SystemExit)
    assert len(ran.output.splitlines()) == 1 and says in ran.output


# Before any state changes


def bits(model): return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b): return all(torch.equal(a[k], b[k]) for k in a)


@both
@pytest.mark.parametrize("bad", [target(labels=tensor([0])), target(7), target(boxes=tensor([[9., 9, 3, 3]])), None])
def test_a_refused_batch_changes_no_weight_and_no_statistic(lib, bad):
    trainer = lib.train.Trainer(model_of(lib), lib.train.Recipe(model=SMALL, average=.5), torch.device("cpu"))
    before, kept, drawn = bits(trainer.model), bits(trainer.result), torch.get_rng_state()
    images, mask = lib.data.pad_images([image(), image()])
    refused(lambda: trainer.step((images, mask, [target(), bad])), r"targets\[1\]")
    assert same(before, trainer.model.state_dict()) and same(kept, trainer.result.state_dict())
    assert torch.equal(drawn, torch.get_rng_state())


@both
def test_an_infinite_gradient_moves_nothing(lib):
    trainer = lib.train.Trainer(model_of(lib), lib.train.Recipe(model=SMALL), torch.device("cpu"))
    before = dict(trainer.model.named_parameters())
    before = {k: v.detach().clone() for k, v in before.items()}
    trainer.model.query_embed.weight.register_hook(lambda g: g * torch.inf)
    with pytest.raises(FloatingPointError, match="gradient is not finite"):
        trainer.step(lib.data.collate([(image(), target())]))
    assert same(before, dict(trainer.model.named_parameters()))


@both
@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_that_fails_leaves_the_mode(lib, training):
    model = model_of(lib).train(training)
    refused(lambda: lib.evaluate.evaluate(model, [(image(fill=nan), target())]), "runs from nan")
    assert model.training == training


@both
@pytest.mark.parametrize("bad", [dict(num_steps=0), dict(recipe="desktop"), dict(data=Sized())], ids=str)
def test_a_refused_training_leaves_no_folder(lib, tmp_path, bad):
    refused(lambda: train(lib, out=tmp_path / "out", **bad), "num_steps|recipe|data")
    assert not (tmp_path / "out").exists()


@both
def test_diverged_weights_are_named_and_not_called_nothing_found(lib):
    model = model_of(lib)
    with torch.no_grad(): model.heads.class_head.weight.fill_(nan)
    for call in (lambda: lib.inference.predict(model, image(), 0.0), lambda: lib.evaluate.evaluate(model, [(image(), target())]),
                 lambda: lib.inference.predict_and_visualize(model, image())):
        refused(call, r"pred_logits\[0, 0, 0\] is nan.*diverged")


# Properties: what fits gives finite results of the right shape; what does not is named

@st.composite
def answers(draw):
    "Predictions and targets of a random size, of which one thing may be wrong: (outputs, targets, what is wrong)."
    b, n, k = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    logits = torch.randn(b, n, k + 1, generator=g) * draw(st.sampled_from([0., 1., 100.]))
    boxes = torch.rand(b, n, 4, generator=g)
    if draw(st.booleans()): boxes[..., 2:] = 0                                     # predicted boxes may be empty
    targets = []
    for _ in range(b):
        m = draw(st.integers(0, n))
        targets.append(dict(labels=torch.randint(1, k + 1, (m,), generator=g), boxes=torch.rand(m, 4, generator=g) * .9 + .01))
    at, wrong = draw(st.integers(0, b - 1)), draw(st.sampled_from([
        None, None, "pred_logits", "pred_boxes", "label", "box", "pixels", "corners", "many", "type", "number"]))
    t, m = targets[at], len(targets[at]["labels"])
    if wrong in ("label", "box", "pixels", "corners", "type") and not m: wrong = None
    match wrong:
        case "pred_logits": logits[at, 0, -1] = draw(st.sampled_from([nan, torch.inf, -torch.inf]))
        case "pred_boxes": boxes[at, -1, 2] = draw(st.sampled_from([nan, torch.inf, -torch.inf]))
        case "label": t["labels"][-1] = draw(st.sampled_from([0, -1, k + 1, 2**40]))
        case "box": t["boxes"][-1, draw(st.integers(0, 3))] = draw(st.sampled_from([nan, torch.inf, -.5, 1.5]))
        case "pixels": t["boxes"] *= 640
        case "corners": t["boxes"][0, 2:] = -t["boxes"][0, 2:]
        case "many": targets[at] = target(n + 1, labels=torch.ones(n + 1, dtype=torch.int64))
        case "type": t["labels"] = t["labels"].float()
        case "number": targets.append(target(0))
    layer = dict(pred_logits=logits, pred_boxes=boxes)
    return layer | dict(aux_outputs=[dict(layer)] * draw(st.integers(0, 2))), targets, (wrong, at)


@both
@settings(QUICK, max_examples=300)
@given(case=answers())
def test_a_loss_is_finite_or_says_why_not(lib, case):
    outputs, targets, (wrong, at) = case
    leaves = {k: outputs[k].requires_grad_() for k in ("pred_logits", "pred_boxes")}
    loss = lib.loss.DetrLoss(outputs["pred_logits"].shape[2] - 1)
    if wrong is None:
        pairs = loss.matcher(outputs, targets)
        assert [sorted(o.tolist()) for _, o in pairs] == [list(range(len(t["labels"]))) for t in targets]
        assert all(len(set(q.tolist())) == len(q) for q, _ in pairs)
        losses = loss(outputs, targets)
        losses["total"].backward()
        assert all(v.isfinite() for v in losses.values()) and all(v.grad.isfinite().all() for v in leaves.values())
    else:
        says = dict(number="targets", pred_logits=r"pred_logits\[", pred_boxes=r"pred_boxes\[").get(wrong, rf"targets\[{at}\]")
        kept = [{k: v.clone() for k, v in t.items()} for t in targets]
        refused(lambda: loss(outputs, targets), says)
        refused(lambda: loss.matcher(outputs, targets), says)
        assert all(torch.equal(a[k], b[k]) or a[k].isnan().any() for a, b in zip(kept, targets) for k in a)


DTYPES = [torch.float32, torch.float16, torch.float64, torch.uint8, torch.int64, torch.bool]


@both
@settings(QUICK, max_examples=150)
@given(shape=st.lists(st.integers(0, 4), max_size=5), dtype=st.sampled_from(DTYPES), other=st.sampled_from(DTYPES),
       mask=st.sampled_from(["none", "fits", "short", "flat"]), listed=st.booleans())
@example(shape=[2, 3, 4, 4], dtype=torch.float32, other=torch.bool, mask="fits", listed=False)
@example(shape=[2, 3, 4, 4], dtype=torch.float32, other=torch.uint8, mask="fits", listed=False)
@example(shape=[2, 3, 4, 4], dtype=torch.float32, other=torch.bool, mask="short", listed=False)
@example(shape=[2, 3, 4, 4], dtype=torch.float16, other=torch.bool, mask="none", listed=True)
def test_images_come_in_or_are_named(lib, shape, dtype, other, mask, listed):
    x = torch.zeros(shape, dtype=dtype)
    sizes = dict(none=None, fits=shape[:1] + shape[2:], short=shape[:1] + shape[2:-1] + [9], flat=shape[:1])[mask]
    m = None if sizes is None else torch.zeros(sizes, dtype=other)
    fits = len(shape) == 4 and shape[1] == 3 and 0 not in shape and dtype.is_floating_point
    fits &= mask == "none" or (mask == "fits" and other == torch.bool and not listed)
    call = lambda: lib.detr.as_batch(list(x) if listed and shape else x, m)
    if not fits: return refused(call, "image|mask")
    batch, hidden = call()
    assert batch.shape == x.shape and (hidden is None) == (mask == "none")


MODELS = {(lib is PLAIN, gaze): model_of(lib, **(dict(gaze=gaze, query_boxes=True) if gaze else {}))
          for lib in (PLAIN, CHECKED) for gaze in (None, "soft", "points")}


@both
@settings(QUICK, max_examples=100)
@given(size=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)), seed=st.integers(0, 10**6),
       gaze=st.sampled_from([None, "soft", "points"]), mask=st.sampled_from(["none", "noise", "first", "all", "corner"]),
       bad=st.sampled_from([None, nan, torch.inf]))
@example(size=(2, 64, 64), seed=0, gaze=None, mask="all", bad=None)
@example(size=(2, 64, 64), seed=0, gaze="soft", mask="first", bad=None)
@example(size=(2, 64, 64), seed=0, gaze="points", mask="first", bad=nan)
def test_a_model_answers_whatever_is_hidden(lib, size, seed, gaze, mask, bad):
    "Any size, any mask, a picture that is hidden altogether: finite boxes. A NaN spoils its own picture, and is named."
    b, h, w = size
    g, model = torch.Generator().manual_seed(seed), MODELS[lib is PLAIN, gaze]
    images, hidden = torch.rand(b, 3, h, w, generator=g), torch.zeros(b, h, w, dtype=torch.bool)
    match mask:
        case "noise": hidden = torch.rand(b, h, w, generator=g) < .5
        case "first": hidden[0] = True
        case "all": hidden[:] = True
        case "corner": hidden[:, h // 2:] = True; hidden[:, :, w // 3:] = True
    if bad is not None: images[0, 1, 0, 0] = bad; hidden[0] = False
    with torch.no_grad(): out = model(images, None if mask == "none" else hidden)
    assert out["pred_logits"].shape == (b, 5, 4) and out["pred_boxes"].shape == (b, 5, 4)
    finite = out["pred_logits"].isfinite().all(-1).all(-1) & out["pred_boxes"].isfinite().all(-1).all(-1)
    assert finite[1:].all() and ((out["pred_boxes"][1:] >= 0) & (out["pred_boxes"][1:] <= 1)).all()
    sizes = tensor([[h, w]] * b)
    if bad is None:
        assert finite.all() and all(d["boxes"].isfinite().all() for d in lib.detr.postprocess(out, sizes))
        return
    assert not finite[0]
    refused(lambda: lib.detr.postprocess(out, sizes), r"pred_(logits|boxes)\[0, ")
    refused(lambda: lib.loss.DetrLoss(3)(out, [target()] * b), r"pred_(logits|boxes)\[0, ")
    refused(lambda: lib.inference.predict(model, images), r"images\[0\] runs")


@both
@settings(QUICK, max_examples=60)
@given(name=st.sampled_from(["num_samples", "image_size", "max_objects", "num_classes", "seed"]),
       value=st.one_of(st.integers(-3, 200), st.floats(), st.none(), st.text(max_size=2), st.booleans(), st.integers()))
def test_a_toy_data_set_is_made_or_its_argument_named(lib, name, value):
    try: data = lib.data.ToyDetectionDataset(**dict(num_samples=2, image_size=32) | {name: value})
    except (ValueError, TypeError) as error: assert name in str(error) or isinstance(error, TypeCheckError)
    else:
        for i in range(min(len(data), 2)):
            picture, t = data[i]
            assert picture.shape == (3, data.image_size, data.image_size) and 1 <= len(t["labels"]) <= data.max_objects
            lib.matcher.check_targets([t], data.max_objects, data.num_classes)


@both
@settings(QUICK, max_examples=100)
@given(sides=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=3), seed=st.integers(0, 10**6),
       wrong=st.sampled_from([None, None, "label", "nan", "crossed", "short", "type", "scores", "lists"]), at=st.integers(0, 2))
def test_an_evaluation_is_a_share_or_says_why_not(lib, sides, seed, wrong, at):
    g = torch.Generator().manual_seed(seed)
    def boxes(n): return torch.cat([c := 40 * torch.rand(n, 2, generator=g), c + 30 * torch.rand(n, 2, generator=g)], 1)
    def labels(n): return torch.randint(1, 4, (n,), generator=g)
    detections = [dict(scores=torch.rand(n, generator=g), labels=labels(n), boxes=boxes(n)) for n, _ in sides]
    truths = [dict(labels=labels(m), boxes=boxes(m)) for _, m in sides]
    which = [i for i, (n, _) in enumerate(sides) if n]
    if wrong not in (None, "lists") and not which: wrong = None
    at = which[at % len(which)] if which else 0
    match wrong:
        case "label": detections[at]["labels"][0] = 0
        case "nan": detections[at]["boxes"][0, 0] = nan
        case "crossed": detections[at]["boxes"] = detections[at]["boxes"].flip(1) + tensor([1., 1, 0, 0])
        case "short": detections[at]["scores"] = detections[at]["scores"][1:]
        case "type": detections[at]["labels"] = detections[at]["labels"] + .5
        case "scores": del detections[at]["scores"]
        case "lists": truths.append(dict(labels=labels(0), boxes=boxes(0)))
    call = lambda: lib.evaluate.coco_metrics(detections, truths)
    if wrong: return refused(call, "images, truths" if wrong == "lists" else rf"detections\[{at}\]")
    for row in (call(), *lib.evaluate.class_metrics(detections, truths, ["a", "b", "c"]).values()):
        assert all(v != v or 0 <= v <= 1 for k, v in row.items() if k != "objects")
