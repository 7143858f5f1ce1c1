"""The encoder: attention by hand, PyTorch's own layer, masks, dropout, structure, named errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detr_lit.encoder import TransformerEncoder, TransformerEncoderLayer

D, HEADS, FF, L = 16, 4, 32, 10
LAYER = dict(d_model=D, n_heads=HEADS, dim_ff=FF)
PRE = pytest.mark.parametrize("pre_norm", [False, True])


def shaken(module: nn.Module) -> nn.Module:
    "Eval mode, noise on every parameter: no two norms are alike, no bias is zero."
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn_like(p)
    return module.eval()


def tokens(batch=2, length=L):
    return torch.randn(batch, length, D), torch.randn(batch, length, D)


def attention(mha, q, k, v, mask=None):
    "Multi-head attention, head by head in a loop."
    wq, wk, wv = mha.in_proj_weight.chunk(3)
    bq, bk, bv = mha.in_proj_bias.chunk(3)
    size, mixed = D // HEADS, []
    for h in range(HEADS):
        rows = slice(h * size, (h + 1) * size)
        scores = F.linear(q, wq[rows], bq[rows]) @ F.linear(k, wk[rows], bk[rows]).mT / size**0.5
        if mask is not None:
            scores = scores.masked_fill(mask[:, None], -torch.inf)
        mixed.append(scores.softmax(-1) @ F.linear(v, wv[rows], bv[rows]))
    return mha.out_proj(torch.cat(mixed, -1))


def padding():
    mask = torch.zeros(2, L, dtype=torch.bool)
    mask[1, 6:] = True
    return mask


@PRE
def test_layer_in_plain_steps(pre_norm):
    layer, (x, pos) = shaken(TransformerEncoderLayer(**LAYER, pre_norm=pre_norm)), tokens()
    first, second = layer.ffn[0], layer.ffn[3]
    if pre_norm:
        n = layer.norm1(x)
        y = x + attention(layer.self_attn, n + pos, n + pos, n)
        y = y + second(first(layer.norm2(y)).relu())
    else:
        y = layer.norm1(x + attention(layer.self_attn, x + pos, x + pos, x))
        y = layer.norm2(y + second(first(y).relu()))
    torch.testing.assert_close(layer(x, pos), y, atol=1e-5, rtol=1e-4)


@PRE
def test_equals_pytorch_without_positions(pre_norm):
    layer, (x, _) = shaken(TransformerEncoderLayer(**LAYER, pre_norm=pre_norm)), tokens()
    other = nn.TransformerEncoderLayer(D, HEADS, FF, batch_first=True, norm_first=pre_norm).eval()
    other.load_state_dict(
        {k.replace("ffn.0", "linear1").replace("ffn.3", "linear2"): v for k, v in layer.state_dict().items()}
    )
    mask = padding()
    ours, theirs = layer(x, torch.zeros_like(x), mask), other(x, src_key_padding_mask=mask)
    torch.testing.assert_close(ours[~mask], theirs[~mask], atol=1e-5, rtol=1e-4)


@PRE
def test_values_carry_no_position(pre_norm):
    encoder, (_, pos) = shaken(TransformerEncoder(3, **LAYER, pre_norm=pre_norm)), tokens()
    fog = torch.randn(D).expand(2, L, D)
    memory = encoder(fog, pos)
    torch.testing.assert_close(memory, memory[:, :1].expand_as(memory), atol=1e-4, rtol=1e-3)


def test_positions_matter_in_every_layer():
    encoder, (x, pos) = shaken(TransformerEncoder(3, **LAYER)), tokens()
    pos.requires_grad_()
    seen = []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda m, args: seen.append(args[1] is pos))
    encoder(x, pos).pow(3).sum().backward()
    assert seen == [True] * 3 and pos.grad.abs().sum() > 0


@PRE
def test_padding_changes_nothing(pre_norm):
    encoder, (x, pos), mask = shaken(TransformerEncoder(2, **LAYER, pre_norm=pre_norm)), tokens(), padding()
    memory = encoder(x, pos, mask)
    junk = torch.where(mask[..., None], 50 * torch.randn_like(x), x)
    torch.testing.assert_close(encoder(junk, pos, mask)[~mask], memory[~mask], atol=1e-5, rtol=1e-4)
    alone = encoder(x[1:, :6], pos[1:, :6])
    torch.testing.assert_close(alone[0], memory[1, :6], atol=1e-5, rtol=1e-4)
    none = torch.zeros_like(mask)
    torch.testing.assert_close(encoder(x, pos, none), encoder(x, pos), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(encoder(junk, pos)[1, :6], memory[1, :6], atol=0.01)


def test_attention_on_request():
    encoder, (x, pos), mask = shaken(TransformerEncoder(2, **LAYER)), tokens(), padding()
    memory, maps = encoder(x, pos, mask, need_weights=True)
    assert len(maps) == 2 and maps[0].shape == (2, HEADS, L, L)
    for m in maps:
        torch.testing.assert_close(m.sum(-1), torch.ones(2, HEADS, L))
        assert (m[1, :, :, 6:] == 0).all()
    torch.testing.assert_close(memory[~mask], encoder(x, pos, mask)[~mask], atol=1e-5, rtol=1e-4)


def test_ordinary_path_is_fused(monkeypatch):
    encoder, (x, pos) = shaken(TransformerEncoder(3, **LAYER)), tokens()
    calls, fused = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    encoder(x, pos)
    assert len(calls) == 3
    encoder(x, pos, need_weights=True)
    assert len(calls) == 3


def test_shuffled_cells():
    encoder, (x, pos), mask = shaken(TransformerEncoder(2, **LAYER)), tokens(), padding()
    p = torch.randperm(L)
    ours, theirs = encoder(x[:, p], pos[:, p], mask[:, p]), encoder(x, pos, mask)[:, p]
    torch.testing.assert_close(ours[~mask[:, p]], theirs[~mask[:, p]], atol=1e-5, rtol=1e-4)


def test_pre_norm_has_a_last_norm_and_post_norm_has_none():
    pre, post = TransformerEncoder(2, **LAYER, pre_norm=True), TransformerEncoder(2, **LAYER)
    assert isinstance(pre.norm, nn.LayerNorm) and not list(post.norm.parameters())
    shaken(pre)
    x, pos = tokens()
    y = x
    for layer in pre.layers:
        y = layer(y, pos)
    torch.testing.assert_close(pre(x, pos), pre.norm(y))


def test_silent_sublayers_leave_the_shortcut():
    x, pos = tokens()
    for pre_norm in (False, True):
        layer = TransformerEncoderLayer(**LAYER, pre_norm=pre_norm).eval()
        for last in (layer.self_attn.out_proj, layer.ffn[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        want = x if pre_norm else F.layer_norm(x, (D,))
        torch.testing.assert_close(layer(x, pos), want, atol=1e-4, rtol=1e-4)


def test_dropout_in_three_places():
    layer, (x, pos) = TransformerEncoderLayer(**LAYER, dropout=0.3).train(), tokens()
    assert layer.self_attn.dropout == layer.dropout.p == layer.ffn[2].p == 0.3
    used = []
    layer.dropout.register_forward_hook(lambda *_: used.append(1))
    assert not torch.equal(layer(x, pos), layer(x, pos))
    assert len(used) == 4  # after each of two sublayers, twice
    layer.eval()
    assert torch.equal(layer(x, pos), layer(x, pos))


@PRE
def test_gradient_reaches_every_parameter(pre_norm):
    encoder, (x, pos) = TransformerEncoder(3, **LAYER, pre_norm=pre_norm), tokens()
    encoder(x, pos, padding())[~padding()].pow(3).sum().backward()
    assert [n for n, p in encoder.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_official_size():
    encoder = TransformerEncoder()
    assert sum(p.numel() for p in encoder.parameters()) == 7_890_432
    assert len(encoder.state_dict()) == 72 and len(encoder.layers) == 6
    assert sum(isinstance(m, nn.LayerNorm) for m in encoder.modules()) == 12
    assert isinstance(encoder.layers[0].ffn[1], nn.ReLU)


def test_zero_layers_give_the_tokens_back():
    x, pos = tokens()
    for pre_norm in (False, True):
        assert torch.equal(TransformerEncoder(0, **LAYER, pre_norm=pre_norm)(x, pos), x)
    assert TransformerEncoder(0, **LAYER)(x, pos, need_weights=True)[1] == []


def test_one_cell_and_half_precision():
    encoder = shaken(TransformerEncoder(2, **LAYER))
    x, pos = tokens(length=1)
    assert encoder(x, pos).shape == (2, 1, D)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(*tokens())
    assert rough.isfinite().all()


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="d_model is 10, not divisible by n_heads, which is 3"):
        TransformerEncoder(1, d_model=10, n_heads=3)


def test_settings_beyond_the_syllabus_are_keyword_only():
    with pytest.raises(TypeError):
        TransformerEncoderLayer(D, HEADS, FF, 0.1, True)
