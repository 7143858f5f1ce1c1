"""Step 1: the backbone against torchvision's own network, its errors, its weights, its limits."""
import math
from http.client import IncompleteRead
from urllib.error import HTTPError, URLError

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from detr_lit import backbone as bb
from detr_lit.backbone import Backbone, ConvNet, Residual, norm_layer, resnet_body

URL = "torchvision.models._api.load_state_dict_from_url"
STRIDES = (8, 16, 32)


def stir(net: nn.Module) -> nn.Module:
    "Unequal statistics in every norm, so that a norm in the wrong place shows."
    for m in net.modules():
        if isinstance(m, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            for v in (m.weight, m.bias, m.running_mean, m.running_var):
                v.data.copy_(torch.rand_like(v) * .5 + .5)
    return net


def close(a: torch.Tensor, b: torch.Tensor, tol: float = 1e-5) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= tol * b.abs().mean())


@pytest.fixture(scope="module")
def r50():
    return resnet_body("resnet50")[0]


# ------------------------------------------------------------ the same as torchvision
@pytest.mark.parametrize("name, stride", [*((n, s) for n in ("resnet18", "resnet50") for s in STRIDES),
                                          ("resnext50_32x4d", 16)])
def test_same_as_torchvision(name, stride):
    theirs = stir(torchvision.models.get_model(name, norm_layer=FrozenBatchNorm2d))
    stage = {8: "layer2", 16: "layer3", 32: "layer4"}[stride]
    body, channels = resnet_body(name, stride)
    missing, _ = body.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.rand(1, 3, 70, 96)
    with torch.no_grad():
        want = IntermediateLayerGetter(theirs, {stage: "0"})(x)["0"]      # as the official code picks its features
        got = body(x)
    assert missing == [] and channels == want.shape[1] and close(got, want)


@pytest.mark.parametrize("stride, flags", [(16, [False, False, True]), (8, [False, True, True])])
def test_dilation_is_torchvisions(stride, flags):
    theirs = stir(torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=flags))
    body, channels = resnet_body("resnet50", stride, dilation=True)
    body.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        got, want = body(x), IntermediateLayerGetter(theirs, {"layer4": "0"})(x)["0"]
    assert channels == 2048 and got.shape[-2:] == (64 // stride, 64 // stride) and close(got, want)


def test_dilated_map_holds_the_plain_one(r50):
    dc5, _ = resnet_body("resnet50", 16, dilation=True)
    dc5.load_state_dict(r50.state_dict())
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        assert close(dc5(x)[..., ::2, ::2], r50(x), 1e-4)


def test_parameter_counts_are_the_official_ones(r50):
    assert sum(p.numel() for p in r50.parameters()) == 23_454_912
    body, _ = resnet_body("resnet50")
    bb.freeze_stem(body)
    frozen = {n for n, p in body.named_parameters() if not p.requires_grad}
    assert sum(p.numel() for n, p in body.named_parameters() if n in frozen) == 41_524_768 - 41_302_368
    assert {n.split(".")[0] for n in frozen} == {"conv1", "layer1"}
    assert {n.split(".")[0] for n, p in body.named_parameters() if p.requires_grad} == {"layer2", "layer3", "layer4"}


def test_keys_are_torchvisions(r50):
    theirs = torchvision.models.resnet50().state_dict()
    assert set(r50.state_dict()) == {k for k in theirs if not k.startswith("fc.") and "num_batches" not in k}


# ------------------------------------------------------------ shapes
@pytest.mark.parametrize("name", ["resnet18", "convnet"])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", [(64, 64), (33, 65), (1, 1)])
def test_sizes_round_up(name, stride, size):
    net = Backbone(8, name, stride=stride, norm="frozen")
    out = net(torch.rand(2, 3, *size))
    assert out.shape == (2, 8, math.ceil(size[0] / stride), math.ceil(size[1] / stride))


def test_defaults_are_the_papers():
    net = Backbone()
    assert net.project.out_channels == 256 and net.project.kernel_size == (1, 1) and net.project.in_channels == 512
    norms = [m for m in net.body.modules() if "Norm" in type(m).__name__]
    assert norms and all(isinstance(m, FrozenBatchNorm2d) and m.eps == 1e-5 for m in norms)
    assert net(torch.rand(1, 3, 64, 64)).shape == (1, 256, 2, 2)
    assert all(p.requires_grad for p in net.parameters())          # random weights: nothing is frozen


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("name", ["resnet18", "convnet"])
def test_gradient_reaches_every_parameter(name, norm):
    net = Backbone(8, name, stride=16, norm=norm)
    net(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_all_names_build():
    for name in bb.RESNETS:
        with torch.device("meta"):
            body, channels = resnet_body(name, 8)
        assert channels == (128 if name in ("resnet18", "resnet34") else 512)
        assert body(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, channels, 4, 4)


# ------------------------------------------------------------ norms
def test_frozen_norm_is_batch_norm_in_eval_mode():
    frozen, usual = stir(norm_layer("frozen")(6)), norm_layer("batch")(6)
    usual.load_state_dict({**frozen.state_dict(), "num_batches_tracked": torch.tensor(3)})
    x = torch.randn(2, 6, 5, 7)
    assert torch.allclose(frozen.train()(x), usual.eval()(x), atol=1e-6)
    assert not list(frozen.parameters())


def test_group_norm_ignores_company():
    net = ConvNet(8, "group")
    x = torch.rand(4, 3, 32, 32)
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)


def test_residual_by_hand():
    block = Residual(4, norm_layer("group"))
    conv1, norm1, _, conv2, norm2 = block.block
    x = torch.randn(1, 4, 6, 6)
    inner = norm2(conv2(torch.clamp(norm1(conv1(x)), min=0)))
    assert torch.allclose(block(x), torch.clamp(x + inner, min=0), atol=1e-6)


def test_convnet_structure():
    for stride, convs in zip(STRIDES, (3, 4, 5)):
        net = ConvNet(stride)
        halving = [m for m in net if isinstance(m, nn.Conv2d)]
        assert len(halving) == convs and all(m.stride == (2, 2) for m in halving)
        assert sum(isinstance(m, Residual) for m in net) == 1 and isinstance(net[-1], Residual)
        assert net.channels == halving[-1].out_channels == (32, 64, 128, 192, 256)[convs - 1]


# ------------------------------------------------------------ weights
@pytest.mark.parametrize("error", [
    URLError("no network"), OSError("disk full"), IncompleteRead(b""), TimeoutError("slow"),
    HTTPError("u", 503, "busy", None, None), RuntimeError('invalid hash value (expected "a", got "b")')])
def test_no_download_is_a_clear_message(monkeypatch, error):
    def fail(*args, **kwargs): raise error
    monkeypatch.setattr(URL, fail)
    said = "IMAGENET1K_V1 of resnet18 can't be downloaded.*weights=None.*checkpoints"
    with pytest.raises(RuntimeError, match=said) as e:
        Backbone(name="resnet18", weights="IMAGENET1K_V1")
    assert e.value.__cause__ is error


def test_no_network_at_all(monkeypatch, tmp_path):
    def fail(*args, **kwargs): raise URLError("no route to host")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", fail)
    with pytest.raises(RuntimeError, match="no route to host"):
        bb.imagenet_weights("resnet50", "DEFAULT")


def test_weights_from_the_cache(monkeypatch, tmp_path):
    "A file in torch's cache is used without a network, the stem is frozen, and the result is torchvision's."
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = stir(torchvision.models.resnet18()).eval()
    url = torchvision.models.get_model_weights("resnet18")["IMAGENET1K_V1"].url
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(theirs.state_dict(), tmp_path / "hub/checkpoints" / url.rsplit("/")[-1])
    net = Backbone(8, "resnet18", weights="ResNet18_Weights.IMAGENET1K_V1")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert close(net.body(x), IntermediateLayerGetter(theirs, {"layer4": "0"})(x)["0"])
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    assert frozen and all(n.startswith(("body.conv1", "body.layer1")) for n in frozen)
    assert not any(p.requires_grad for n, p in net.named_parameters() if n.startswith(("body.conv1", "body.layer1")))


def test_a_pickle_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18")["IMAGENET1K_V1"].url
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save({"net": nn.ReLU()}, tmp_path / "hub/checkpoints" / url.rsplit("/")[-1])
    with pytest.raises(Exception, match="(?i)weights"):
        Backbone(name="resnet18", weights="IMAGENET1K_V1")


def test_unknown_weights_are_named():
    with pytest.raises(ValueError, match="weights is 'COCO'; for resnet50 it must be one of.*IMAGENET1K_V2"):
        Backbone(name="resnet50", weights="COCO")


# ------------------------------------------------------------ named errors
@pytest.mark.parametrize("kwargs, message", [
    (dict(name="vgg16"), "backbone name is 'vgg16'.*convnet.*resnet18"),
    (dict(stride=4), "stride is 4; it must be 8, 16 or 32"),
    (dict(norm="layer"), r"norm is 'layer'; it must be one of \['batch', 'frozen', 'group'\]"),
    (dict(name="convnet", norm="layer"), "norm is 'layer'"),
    (dict(name="resnet18", stride=16, dilation=True), "resnet18 can't be dilated"),
    (dict(name="resnet50", dilation=True), "stride=16, dilation=True"),
    (dict(name="convnet", dilation=True, stride=16), "convnet takes no weights, no dilation"),
    (dict(name="convnet", weights="DEFAULT"), "convnet takes no weights, no dilation"),
    (dict(weights="DEFAULT", norm="group"), "norm is 'group'.*batch norm"),
])
def test_named_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Backbone(**kwargs)


@pytest.mark.parametrize("stride", [1, 3, 64])
def test_convnet_stride(stride):
    with pytest.raises(ValueError, match=f"stride is {stride}; with 5 widths"):
        ConvNet(stride)
