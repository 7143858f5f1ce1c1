"""The decoder: plain steps, PyTorch's own layer, who hears whom, outputs of every layer, masks, named errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import jacobian

from detr_lit.decoder import TransformerDecoder, TransformerDecoderLayer

D, HEADS, FF, L, N = 16, 4, 32, 10, 5
LAYER = dict(d_model=D, n_heads=HEADS, dim_ff=FF)
PRE = pytest.mark.parametrize("pre_norm", [False, True])


def shaken(module: nn.Module) -> nn.Module:
    "Eval mode, noise on every parameter: no two norms are alike, no bias is zero."
    with torch.no_grad():
        for p in module.parameters():
            p += 0.3 * torch.randn_like(p)
    return module.eval()


def inputs(batch=2):
    "tgt, memory, pos, query_pos"
    return torch.randn(batch, N, D), torch.randn(batch, L, D), torch.randn(batch, L, D), torch.randn(batch, N, D)


def padding():
    mask = torch.zeros(2, L, dtype=torch.bool)
    mask[1, 6:] = True
    return mask


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@PRE
def test_layer_in_plain_steps(pre_norm):
    layer, mask = shaken(TransformerDecoderLayer(**LAYER, pre_norm=pre_norm)), padding()
    tgt, memory, pos, query_pos = inputs()

    def network(t):
        return layer.ffn[3](layer.ffn[0](t).relu())

    def each_other(t):
        return layer.self_attn(t + query_pos, t + query_pos, t)[0]

    def image(t):
        return layer.cross_attn(t + query_pos, memory + pos, memory, key_padding_mask=mask)[0]

    y = tgt
    for norm, sublayer in ((layer.norm1, each_other), (layer.norm2, image), (layer.norm3, network)):
        y = y + sublayer(norm(y)) if pre_norm else norm(y + sublayer(y))
    close(layer(tgt, memory, pos, query_pos, mask), y)


@PRE
def test_equals_pytorch_without_positions(pre_norm):
    layer, mask = shaken(TransformerDecoderLayer(**LAYER, pre_norm=pre_norm)), padding()
    tgt, memory, _, _ = inputs()
    names = {"ffn.0": "linear1", "ffn.3": "linear2", "cross_attn": "multihead_attn"}
    weights = layer.state_dict()
    for ours, theirs in names.items():
        weights = {k.replace(ours, theirs): v for k, v in weights.items()}
    other = nn.TransformerDecoderLayer(D, HEADS, FF, batch_first=True, norm_first=pre_norm).eval()
    other.load_state_dict(weights)
    ours = layer(tgt, memory, torch.zeros_like(memory), torch.zeros_like(tgt), mask)
    close(ours, other(tgt, memory, memory_key_padding_mask=mask))


@PRE
def test_norm_is_on_every_output_and_not_fed_back(pre_norm):
    decoder = shaken(TransformerDecoder(4, **LAYER, pre_norm=pre_norm))
    stream, memory, pos, query_pos = inputs()
    outs = decoder(stream, memory, pos, query_pos)
    assert len(outs) == 4
    for layer, out in zip(decoder.layers, outs):
        stream = layer(stream, memory, pos, query_pos)
        close(out, decoder.norm(stream))


@PRE
def test_fog_gives_every_slot_the_same_answer(pre_norm):
    decoder, (_, _, pos, query_pos) = shaken(TransformerDecoder(3, **LAYER, pre_norm=pre_norm)), inputs()
    fog = torch.randn(D).expand(2, L, D)
    for out in decoder(torch.zeros_like(query_pos), fog, pos, query_pos):
        torch.testing.assert_close(out, out[:, :1].expand_as(out), atol=1e-4, rtol=1e-3)


def test_memory_positions_matter():
    decoder, (tgt, memory, pos, query_pos) = shaken(TransformerDecoder(2, **LAYER)), inputs()
    p = torch.randperm(L)
    out = decoder(tgt, memory, pos, query_pos)[-1]
    close(decoder(tgt, memory[:, p], pos[:, p], query_pos)[-1], out)
    assert not torch.allclose(decoder(tgt, memory[:, p], pos, query_pos)[-1], out, atol=0.01)


def depends(decoder, layers):
    "Bool [N, N]: does the output of slot i depend on the query of slot j?"
    _, memory, pos, query_pos = (t[:1].double() for t in inputs())
    nothing = torch.zeros_like(query_pos)
    decoder = decoder.double()
    table = jacobian(lambda q: decoder(nothing, memory, pos, q[None])[layers - 1][0], query_pos[0])
    return table.norm(dim=(1, 3)) > 1e-10


@PRE
def test_who_hears_whom(pre_norm):
    decoder = shaken(TransformerDecoder(2, **LAYER, pre_norm=pre_norm))
    assert torch.equal(depends(decoder, 1), torch.eye(N, dtype=torch.bool))  # zero start: nothing to hear yet
    assert depends(decoder, 2).all()  # no causal mask


def test_shuffled_queries():
    decoder, (tgt, memory, pos, query_pos) = shaken(TransformerDecoder(3, **LAYER)), inputs()
    p, tgt = torch.randperm(N), torch.zeros_like(tgt)
    for a, b in zip(decoder(tgt, memory, pos, query_pos[:, p]), decoder(tgt, memory, pos, query_pos)):
        close(a, b[:, p])


@PRE
def test_padding_changes_nothing(pre_norm):
    decoder, mask = shaken(TransformerDecoder(2, **LAYER, pre_norm=pre_norm)), padding()
    tgt, memory, pos, query_pos = inputs()
    out = decoder(tgt, memory, pos, query_pos, mask)[-1]
    junk = torch.where(mask[..., None], 50 * torch.randn_like(memory), memory)
    close(decoder(tgt, junk, pos, query_pos, mask)[-1], out)
    close(decoder(tgt[1:], memory[1:, :6], pos[1:, :6], query_pos[1:])[-1], out[1:])
    none = torch.zeros_like(mask)
    close(decoder(tgt, memory, pos, query_pos, none)[-1], decoder(tgt, memory, pos, query_pos)[-1])


def test_attention_on_request():
    decoder, mask = shaken(TransformerDecoder(2, **LAYER)), padding()
    args = (*inputs(), mask)
    outs, maps = decoder(*args, need_weights=True)
    assert len(maps) == 2 and maps[0].shape == (2, HEADS, N, L)
    for m in maps:
        torch.testing.assert_close(m.sum(-1), torch.ones(2, HEADS, N))
        assert (m[1, :, :, 6:] == 0).all()
    for a, b in zip(outs, decoder(*args)):
        close(a, b)


@PRE
def test_bias_is_added_to_the_scores_of_cross_attention(pre_norm):
    "A table for each head: -inf hides as a mask does, and any other number multiplies a share by its exponential."
    layer, mask = shaken(TransformerDecoderLayer(**LAYER, pre_norm=pre_norm)), padding()
    tgt, memory, pos, query_pos = inputs()
    hide = torch.zeros(2, HEADS, N, L).masked_fill(mask[:, None, None], -torch.inf)
    close(layer(tgt, memory, pos, query_pos, bias=hide), layer(tgt, memory, pos, query_pos, mask))
    plain = layer(tgt, memory, pos, query_pos, need_weights=True)[1]
    bias = torch.randn(2, HEADS, N, L)
    with_bias = layer(tgt, memory, pos, query_pos, need_weights=True, bias=bias)
    wanted = plain * bias.exp()
    close(with_bias[1], wanted / wanted.sum(-1, keepdim=True))
    close(with_bias[0], layer(tgt, memory, pos, query_pos, bias=bias))


def test_ordinary_path_is_fused(monkeypatch):
    decoder, args = shaken(TransformerDecoder(3, **LAYER)), inputs()
    calls, fused = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    decoder(*args)
    assert len(calls) == 6


def test_dropout_in_three_places():
    layer, args = TransformerDecoderLayer(**LAYER, dropout=0.3).train(), inputs()
    assert layer.self_attn.dropout == layer.cross_attn.dropout == layer.dropout.p == layer.ffn[2].p == 0.3
    used = []
    layer.dropout.register_forward_hook(lambda *_: used.append(1))
    assert not torch.equal(layer(*args), layer(*args))
    assert len(used) == 6  # after each of three sublayers, twice


@PRE
def test_gradient_reaches_every_parameter(pre_norm):
    decoder = shaken(TransformerDecoder(3, **LAYER, pre_norm=pre_norm)).double()
    _, memory, pos, query_pos = (t.double() for t in inputs())
    query_pos.requires_grad_()
    outs = decoder(torch.zeros_like(query_pos), memory, pos, query_pos)
    sum(o.pow(3).sum() for o in outs).backward()
    idle = [n for n, p in decoder.named_parameters() if not p.grad.abs().max() > 1e-9]
    assert idle == ["layers.0.norm1.weight" if pre_norm else "layers.0.self_attn.in_proj_weight"]  # they multiply zeros
    assert query_pos.grad.abs().sum(-1).all()


def test_official_size():
    decoder = TransformerDecoder()
    assert sum(p.numel() for p in decoder.parameters()) == 9_473_024
    assert len(decoder.state_dict()) == 108 + 2 and len(decoder.layers) == 6
    assert sum(isinstance(m, nn.LayerNorm) for m in decoder.modules()) == 19
    assert isinstance(decoder.layers[0].ffn[1], nn.ReLU)


def test_one_slot_one_cell():
    decoder = shaken(TransformerDecoder(2, **LAYER))
    tgt, memory, pos, query_pos = inputs()
    assert decoder(tgt[:, :1], memory[:, :1], pos[:, :1], query_pos[:, :1])[-1].shape == (2, 1, D)


def test_refused_by_name():
    with pytest.raises(ValueError, match="d_model is 10, not divisible by n_heads, which is 3"):
        TransformerDecoder(1, d_model=10, n_heads=3)
    with pytest.raises(ValueError, match="n_layers is 0"):
        TransformerDecoder(0)
    with pytest.raises(TypeError):
        TransformerDecoderLayer(D, HEADS, FF, 0.1, True)


@PRE
def test_teams_that_are_deaf_to_each_other_answer_as_if_alone(pre_norm):
    decoder = shaken(TransformerDecoder(3, **LAYER, pre_norm=pre_norm))
    tgt, memory, pos, query_pos = inputs()
    team = torch.tensor([0, 1, 0, 1, 1])
    outs = decoder(tgt, memory, pos, query_pos, deaf=team[:, None] != team)
    for t in (0, 1):
        alone = decoder(tgt[:, team == t], memory, pos, query_pos[:, team == t])
        for a, b in zip(outs, alone): close(a[:, team == t], b)
    assert (outs[-1] - decoder(tgt, memory, pos, query_pos)[-1]).abs().max() > 1e-3
