"""The model outside Python: ONNX in onnxruntime, torch.export, torch.compile; equal for sizes that no exporter saw."""

import importlib.util
import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch

import detr_lit
from detr_lit import export
from detr_lit.data import pad_images
from detr_lit.detr import DETR
from detr_lit.export import AsFunction, dynamic_shapes, example, export_onnx, tracing

pytestmark = pytest.mark.slow

SMALL = dict(num_queries=5, d_model=32, n_heads=4, n_enc_layers=1, n_dec_layers=2, dim_ff=48, backbone_name="convnet",
             stride=16, norm="batch")  # fmt: skip
FORMS = {  # the chapter exports further ones: learned positions, norms first, boxes without a gaze, DC5
    "plain": {},
    "soft": dict(query_boxes=True, gaze="soft", temperature=20.0),
    "points": dict(query_boxes=True, gaze="points", n_enc_layers=0, norm="group"),
}
BATCHES = [[(64, 64)], [(100, 75), (33, 128)], [(16, 16), (17, 31), (96, 50)], [(160, 224)] * 4]


def made(**changes):
    torch.manual_seed(0)
    return DETR(**(SMALL | changes)).eval()


def session_of(model, path, **kw):
    return onnxruntime.InferenceSession(export_onnx(model, path, **kw))


@torch.no_grad()
def compare(session, function, sizes):
    images, mask = pad_images([torch.rand(3, h, w) for h, w in sizes])
    found = session.run(function.names, dict(images=images.numpy(), mask=mask.numpy()))
    for name, f, e in zip(function.names, found, function(images, mask), strict=True):
        assert f.shape == e.shape and np.isfinite(f).all()
        np.testing.assert_allclose(f, e.numpy(), rtol=0, atol=1e-4, err_msg=f"{name} {sizes}")
    return dict(zip(function.names, found))


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_equals_torch_at_sizes_it_never_saw(form, tmp_path):
    model = made(**FORMS[form])
    session, function = session_of(model, tmp_path / "m.onnx", attention=True), AsFunction(model, attention=True)
    answers = [compare(session, function, sizes) for sizes in BATCHES]
    for a in answers:
        assert a["pred_boxes"].std() > 1e-3  # no constant
        for name in ("encoder_attention", "decoder_attention"):
            if name in a and form != "points":  # points may fall outside
                np.testing.assert_allclose(a[name].sum(-1), 1, atol=1e-5)
    free = {i.name: [n if isinstance(n, int) else "free" for n in i.shape] for i in session.get_inputs()}
    assert free == dict(images=["free", 3, "free", "free"], mask=["free"] * 3)
    assert ("encoder_attention" in {o.name for o in session.get_outputs()}) == (form != "points")


def test_the_book_s_weights(tmp_path):
    model = DETR.from_pretrained("trees")
    session = session_of(model, tmp_path / "m.onnx")
    side = model.window[1]
    compare(session, AsFunction(model), [(side, side), (side - 32, side)])
    assert [o.name for o in session.get_outputs()] == ["pred_logits", "pred_boxes"]
    facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["class_names"] == model.class_names and facts["window"] == model.window and facts["no_object"] == 0
    assert facts["num_queries"] == model.num_queries and facts["detr_lit"] == detr_lit.__version__


@torch.no_grad()
def test_layers_come_in_their_order():
    function, images = AsFunction(made(), attention=True), torch.rand(1, 3, 64, 96)
    shares = dict(zip(function.names, function(images, torch.zeros(1, 64, 96, dtype=torch.bool))))["decoder_attention"]
    whole = function.model(images, return_attention=True)["decoder_attention"]
    assert len(shares) == 2 and all(torch.equal(a, b) for a, b in zip(shares, whole)) and not torch.equal(*shares)


def test_the_mask_matters(tmp_path):
    model = made()
    session = session_of(model, tmp_path / "m.onnx")
    images, mask = pad_images([torch.rand(3, 96, 128), torch.rand(3, 48, 64)])
    right, wrong = (session.run(["pred_boxes"], dict(images=images.numpy(), mask=m.numpy()))[0] for m in (mask, mask & False))
    assert np.abs(right[0] - wrong[0]).max() < 1e-6 and np.abs(right[1] - wrong[1]).max() > 1e-3


def test_export_leaves_the_model_as_it_was(tmp_path):
    model = made().train()
    state = {n: w.clone() for n, w in model.state_dict().items()}
    checked = export.jaxtyping.config.jaxtyping_disable
    session = session_of(model, tmp_path / "new/folder/m.onnx")
    assert model.training and all(torch.equal(w, state[n]) for n, w in model.state_dict().items())
    assert export.jaxtyping.config.jaxtyping_disable == checked
    compare(session, AsFunction(model.eval()), [(64, 96)])  # exported in eval mode all the same
    assert [f.name for f in (tmp_path / "new/folder").iterdir()] == ["m.onnx"]  # one file, nothing beside it


class FreezesHeight(torch.nn.Module):
    "A position encoding that counts its rows in Python."

    def forward(self, x, mask=None):
        return x * 0 + torch.linspace(0, 1, int(x.shape[2]))[:, None]


def test_a_frozen_size_is_an_error_and_no_file(tmp_path):
    model = made()
    model.position = FreezesHeight()
    with pytest.raises(Exception, match="became a constant|[Cc]onstraint"):
        export_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else real(name, *a))
    with pytest.raises(ImportError, match=r"onnxscript missing; pip install 'detr_lit\[export\]'"):
        export_onnx(made(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("strict", [False, True])
@torch.no_grad()
def test_torch_export(form, strict):
    function = AsFunction(made(**FORMS[form]), attention=True).eval()
    with tracing():
        program = torch.export.export(function, example(function.model), dynamic_shapes=dynamic_shapes(), strict=strict)
    for sizes in BATCHES[1:2] + BATCHES[3:]:
        images, mask = pad_images([torch.rand(3, h, w) for h, w in sizes])
        for a, b in zip(program.module()(images, mask), function(images, mask), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", list(FORMS))
@torch.no_grad()
def test_compile_has_no_graph_break(form):
    model, (images, mask) = made(**FORMS[form]), pad_images([torch.rand(3, 96, 128), torch.rand(3, 64, 70)])
    torch._dynamo.reset()
    with tracing():
        found = torch._dynamo.explain(model)(images, mask)
        fast = torch.compile(model, fullgraph=True, backend="aot_eager")(images, mask)
    assert found.graph_count == 1 and found.graph_break_count == 0
    torch.testing.assert_close(fast["pred_boxes"], model(images, mask)["pred_boxes"], rtol=0, atol=1e-5)


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor wants a C++ compiler")
@torch.no_grad()
def test_inductor():
    model, images = made(), torch.rand(2, 3, 64, 96)
    torch._dynamo.reset()
    with tracing():
        fast = torch.compile(model, fullgraph=True)(images)
    torch.testing.assert_close(fast["pred_logits"], model(images)["pred_logits"], rtol=0, atol=1e-4)
