"""Step 20: deformable attention against a slow loop, against transformers, at its limits; its places, cost and padding."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr import modeling_deformable_detr as hf

from detr_lit.deformable import (
    DeformableEncoderLayer,
    MultiScaleDeformableAttention,
    deformable_attention,
    flatten_levels,
    rays,
    reference_points,
    valid_ratios,
)
from detr_lit.encoder import TransformerEncoderLayer
from detr_lit.gaze import GivenAttention, Points, cell_centres

SHAPES = [(4, 6), (2, 3), (1, 2)]
L = sum(h * w for h, w in SHAPES)
QUICK = settings(derandomize=True, deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))


def shaken(module, std=0.5):
    for p in module.parameters():
        nn.init.normal_(p, std=std)
    return module.eval()


def padded_masks():
    "The second picture holds half of the columns of two maps, rounded up on the third, and 3, 2 and 1 rows."
    masks = [torch.zeros(2, h, w, dtype=torch.bool) for h, w in SHAPES]
    masks[0][1, 3:], masks[0][1, :, 3:], masks[1][1, :, 2:], masks[2][1, :, 1:] = True, True, True, True
    return masks


def slowly(value, shapes, locations, weights):
    "Every cell of every level gets a tent about each place: nothing is floored, no library interpolates."
    B, N, heads, levels, P, _ = locations.shape
    rows, start = [], 0
    for h, w in shapes:
        rows.append([(start + r * w + c, (c + 0.5) / w, (r + 0.5) / h) for r in range(h) for c in range(w)])
        start += h * w
    out = torch.zeros(B, N, heads, value.shape[3], dtype=value.dtype)
    for b in range(B):
        for n in range(N):
            for m in range(heads):
                for level, (h, w) in enumerate(shapes):
                    for p in range(P):
                        x, y = locations[b, n, m, level, p].tolist()
                        for cell, cx, cy in rows[level]:
                            share = max(0, 1 - abs(x - cx) * w) * max(0, 1 - abs(y - cy) * h)
                            out[b, n, m] += weights[b, n, m, level, p] * share * value[b, cell, m]
    return out.flatten(2)


def test_by_loop():
    value, at = torch.randn(2, L, 2, 3), torch.rand(2, 3, 2, 3, 2, 2) * 1.4 - 0.2
    weights = torch.randn(2, 3, 2, 3, 2)
    got = deformable_attention(value, SHAPES, at, weights)
    assert got.shape == (2, 3, 6)
    torch.testing.assert_close(got, slowly(value, SHAPES, at, weights), rtol=1e-4, atol=1e-5)


@QUICK
@given(
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    size=st.tuples(st.integers(1, 2), st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    reach=st.sampled_from([0.0, 1.0, 3.0]),
    seed=st.integers(0, 10**6),
)
def test_by_loop_for_any_sizes(shapes, size, reach, seed):
    (B, N, heads, P, d), g = size, torch.Generator().manual_seed(seed)
    value = torch.randn(B, sum(h * w for h, w in shapes), heads, d, generator=g)
    at = reach * (torch.rand(B, N, heads, len(shapes), P, 2, generator=g) - 0.5) + 0.5
    weights = torch.randn(B, N, heads, len(shapes), P, generator=g)
    got = deformable_attention(value, shapes, at, weights)
    torch.testing.assert_close(got, slowly(value, shapes, at, weights), rtol=1e-4, atol=1e-4)


def test_a_cell_that_reads_at_its_own_middle_finds_itself():
    "Each token, with all its weight on its own level, at its reference point: half a cell off, or x for y, would show."
    value, where = torch.randn(2, L, 2, 3), reference_points(padded_masks())
    level = torch.cat([torch.full((h * w,), i) for i, (h, w) in enumerate(SHAPES)])
    weights = nn.functional.one_hot(level, 3).float()[None, :, None, :, None].expand(2, -1, 2, -1, 1)
    got = deformable_attention(value, SHAPES, where[:, :, None, :, None].expand(-1, -1, 2, -1, 1, -1), weights)
    torch.testing.assert_close(got, value.flatten(2), rtol=1e-4, atol=1e-5)


def test_a_constant_picture_is_read_as_it_is_and_beyond_the_edge_nothing():
    value = torch.ones(1, L, 1, 1)
    weights = torch.rand(1, 5, 1, 3, 4)
    inside = 0.25 + 0.5 * torch.rand(1, 5, 1, 3, 4, 2)
    inside[..., 2, :, 1] = 0.5  # the last level has one row: only its middle is wholly inside
    got = deformable_attention(value, SHAPES, inside, weights)
    torch.testing.assert_close(got[0, :, 0], weights.flatten(1).view(5, -1).sum(1))
    assert (deformable_attention(value, SHAPES, inside + 3, weights) == 0).all()


def test_gradients():
    module = shaken(MultiScaleDeformableAttention(4, 2, 2, 2), 0.3).double()
    shapes = [(3, 4), (2, 2)]
    query, memory = torch.randn(1, 2, 4).double(), torch.randn(1, 16, 4).double()
    boxes = (0.2 + 0.6 * torch.rand(1, 2, 2, 4)).double()
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 3] = True
    for reference in (boxes[..., :2], boxes):
        leaves = [t.clone().requires_grad_() for t in (query, reference, memory)]
        assert torch.autograd.gradcheck(lambda q, r, m: module(q, r, m, shapes, mask), leaves)


def test_first_rays():
    way = rays(8, 3)
    assert way.shape == (8, 3, 2)
    for head in range(8):
        x, y = math.cos(head * math.pi / 4), math.sin(head * math.pi / 4)
        longest = max(abs(x), abs(y))
        for k in range(3):
            torch.testing.assert_close(way[head, k], torch.tensor([x, y]) / longest * (k + 1))


def test_the_official_start():
    config = DeformableDetrConfig(d_model=16, num_feature_levels=3, encoder_attention_heads=4)
    theirs = hf.DeformableDetrMultiscaleDeformableAttention(config, 4, 2)
    hf.DeformableDetrPreTrainedModel._init_weights(_Blank(config), theirs)
    ours = MultiScaleDeformableAttention(16, 3, 4, 2)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, p in ours.state_dict().items():
        if name in ("value_proj.weight", "output_proj.weight"):
            bound = math.sqrt(6 / 32)  # Xavier's, uniform
            assert 0.9 * bound < p.abs().max() <= bound
        else:
            torch.testing.assert_close(p, theirs.state_dict()[name])


class _Blank(hf.DeformableDetrPreTrainedModel):
    "Just enough of their model to call its initialisation."

    def __init__(self, config):
        nn.Module.__init__(self)
        self.config = config


@pytest.mark.parametrize("boxes", [False, True], ids=["points", "boxes"])
@pytest.mark.parametrize("hidden", [False, True], ids=["whole", "padded"])
def test_as_transformers(boxes, hidden):
    config = DeformableDetrConfig(d_model=16, num_feature_levels=3, encoder_attention_heads=4)
    ours = shaken(MultiScaleDeformableAttention(16, 3, 4, 2))
    theirs = hf.DeformableDetrMultiscaleDeformableAttention(config, 4, 2)
    theirs.load_state_dict(ours.state_dict())
    query, memory, reference = torch.randn(2, 5, 16), torch.randn(2, L, 16), torch.rand(2, 5, 3, 4 if boxes else 2)
    mask = torch.cat([m.flatten(1) for m in padded_masks()], 1) if hidden else None
    wanted, weights = theirs(
        query,
        None if mask is None else ~mask,
        memory,
        reference_points=reference,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=SHAPES,
    )
    got = ours(query, reference, memory, SHAPES, mask)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.places(query, reference, SHAPES)[1], weights)


def test_a_layer_as_transformers():
    config = DeformableDetrConfig(
        d_model=16, num_feature_levels=3, encoder_attention_heads=4, encoder_n_points=2, encoder_ffn_dim=24
    )
    ours, theirs = shaken(DeformableEncoderLayer(16, 4, 24, n_levels=3, n_points=2)), hf.DeformableDetrEncoderLayer(config)
    names = {"norm1": "self_attn_layer_norm", "norm2": "final_layer_norm", "ffn.0": "mlp.fc1", "ffn.3": "mlp.fc2"}
    state = {}
    for k, v in ours.state_dict().items():
        for our, their in names.items():
            k = k.replace(our, their)
        state[k] = v
    theirs.eval().load_state_dict(state)
    x, pos, masks = torch.randn(2, L, 16), torch.randn(2, L, 16), padded_masks()
    mask, where = torch.cat([m.flatten(1) for m in masks], 1), reference_points(masks)
    wanted = theirs(
        x, ~mask, pos, reference_points=where, spatial_shapes=torch.tensor(SHAPES), spatial_shapes_list=SHAPES
    )
    torch.testing.assert_close(ours(x, pos, where, SHAPES, mask), wanted, rtol=1e-5, atol=1e-5)


def test_reference_points_as_transformers():
    masks = padded_masks()
    ratios = torch.stack([hf.DeformableDetrModel.get_valid_ratio(None, ~m) for m in masks], 1)
    torch.testing.assert_close(valid_ratios(masks), ratios)
    wanted = hf.DeformableDetrEncoder.get_reference_points(SHAPES, ratios, "cpu")
    torch.testing.assert_close(reference_points(masks), wanted)


def test_reference_points_by_hand():
    where = reference_points(padded_masks())
    assert where.shape == (2, L, 3, 2)
    torch.testing.assert_close(where[0, 7], torch.tensor([[1.5 / 6, 1.5 / 4]] * 3))  # row 1, column 1, no padding
    # the second picture: 3 of 6 columns, 2 of 3, 1 of 2; 3 of 4 rows, 2 of 2, 1 of 1
    wanted = torch.tensor([[1.5 / 6, 1.5 / 4], [1.5 / 3 * 2 / 3, 1.5 / 3], [1.5 / 3 / 2, 1.5 / 3]])
    torch.testing.assert_close(where[1, 7], wanted)
    assert reference_points([torch.ones(1, 4, 6, dtype=torch.bool)]).isfinite().all()


def test_padding_is_never_read():
    layer, masks = shaken(DeformableEncoderLayer(16, 4, 24, n_levels=3, n_points=2)), padded_masks()
    mask, where = torch.cat([m.flatten(1) for m in masks], 1), reference_points(masks)
    x, pos = torch.randn(2, L, 16), torch.randn(2, L, 16)
    spoilt = x.masked_fill(mask[..., None], torch.nan)
    plain, other = layer(x, pos, where, SHAPES, mask), layer(spoilt, pos, where, SHAPES, mask)
    assert torch.equal(plain[~mask], other[~mask]) and plain.isfinite().all()
    silent = layer(x, pos, where, SHAPES, torch.ones_like(mask))
    assert silent.isfinite().all() and not torch.allclose(silent, plain)


def test_one_level_is_step_4b():
    points, given, ours = shaken(Points(8, 2, 3)), shaken(GivenAttention(8, 2)), MultiScaleDeformableAttention(8, 1, 2, 3)
    weight, bias = points.aim.weight.unflatten(0, (-1, 3)), points.aim.bias.view(-1, 3)
    aims = dict(sampling_offsets=slice(0, 2), attention_weights=slice(2, 3))
    state = {f"{k}.weight": weight[:, s].flatten(0, 1) for k, s in aims.items()}
    state |= {f"{k}.bias": bias[:, s].flatten() for k, s in aims.items()}
    state |= {f"value_proj.{k}": v for k, v in given.value.state_dict().items()}
    ours.load_state_dict(state | {f"output_proj.{k}": v for k, v in given.out_proj.state_dict().items()})
    memory, ask, box = torch.randn(2, 8, 4, 6), torch.randn(2, 3, 8), torch.rand(2, 3, 4)
    masks = padded_masks()[:1]
    hidden, tokens = masks[0].flatten(1), memory.flatten(2).mT
    table = points(ask, box, cell_centres(memory, masks[0]), hidden)
    wanted, _ = given(ask, tokens, tokens, None, False, table.flatten(0, 1))
    scale = valid_ratios(masks)[:, None, :].repeat(1, 1, 1, 2)  # pictures, 1, levels, x y w h
    got = ours(ask, box[:, :, None] * scale, tokens, SHAPES[:1], hidden)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_flatten_levels():
    maps = [torch.randn(2, 8, h, w) for h, w in SHAPES]
    pos, level = [torch.randn_like(m) for m in maps], torch.randn(3, 8)
    tokens, where, mask, shapes = flatten_levels(maps, pos, masks := padded_masks(), level)
    assert shapes == SHAPES and mask.shape == (2, L)
    start = 0
    for i, (h, w) in enumerate(SHAPES):
        for r in range(h):
            for c in range(w):
                assert torch.equal(tokens[:, start], maps[i][:, :, r, c])
                assert torch.equal(where[:, start], pos[i][:, :, r, c] + level[i])
                assert torch.equal(mask[:, start], masks[i][:, r, c])
                start += 1


@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_silent_layer_keeps_the_place_of_the_norms(pre_norm):
    "With both sublayers at zero it is the dense layer with both sublayers at zero; the positions leave no trace."
    ours, dense = DeformableEncoderLayer(16, 4, 24, n_levels=3, pre_norm=pre_norm), TransformerEncoderLayer(
        16, 4, 24, pre_norm=pre_norm
    )
    for last in (ours.self_attn.output_proj, dense.self_attn.out_proj, ours.ffn[-1], dense.ffn[-1]):
        nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    x, pos = 3 * torch.randn(2, L, 16), torch.randn(2, L, 16)
    where = reference_points(padded_masks())
    torch.testing.assert_close(ours.eval()(x, pos, where, SHAPES), dense.eval()(x, pos))


def test_pre_norm_by_hand():
    layer = shaken(DeformableEncoderLayer(16, 4, 24, n_levels=3, pre_norm=True))
    x, pos, where = torch.randn(2, L, 16), torch.randn(2, L, 16), reference_points(padded_masks())
    content = layer.norm1(x)
    y = x + layer.self_attn(content + pos, where, content, SHAPES)
    torch.testing.assert_close(layer(x, pos, where, SHAPES), y + layer.ffn(layer.norm2(y)))


def test_cost_grows_with_the_tokens_alone(monkeypatch):
    "Matrix products and numbers read, counted while it runs: twice the columns, twice of both."
    import detr_lit.deformable as module

    read, real = [], module.F.grid_sample

    def counting(image, grid, **kw):
        out = real(image, grid, **kw)
        read.append(out.numel())
        return out

    monkeypatch.setattr(module.F, "grid_sample", counting)
    attention, found = MultiScaleDeformableAttention(16, 2, 4, 3), []
    for w in (8, 16, 32):
        shapes = [(6, w), (3, w // 2)]
        masks, tokens = [torch.zeros(1, *s, dtype=torch.bool) for s in shapes], 6 * w + 3 * w // 2
        read.clear()
        with FlopCounterMode(display=False) as flops:
            attention(x := torch.randn(1, tokens, 16), reference_points(masks), x, shapes)
        found.append((flops.get_total_flops() // 2 / tokens, sum(read) / tokens))
    assert found == [(2 * 16 * 16 + 3 * 4 * 2 * 3 * 16, 2 * 3 * 16)] * 3


def test_half_precision_reads_at_the_right_places():
    "Values and places are rounded by the linear layers; the places are not rounded a second time on the way to the map."
    attention = shaken(MultiScaleDeformableAttention(16, 1, 2, 2), 0.1)
    shapes, where = [(60, 80)], reference_points([torch.zeros(1, 60, 80, dtype=torch.bool)])
    nn.init.zeros_(attention.sampling_offsets.weight), nn.init.zeros_(attention.sampling_offsets.bias)
    memory = torch.randn(1, 4800, 16)
    wanted = attention(memory, where, memory, shapes)
    got = attention.bfloat16()(memory.bfloat16(), where, memory.bfloat16(), shapes)
    assert got.dtype == torch.bfloat16
    assert (got - wanted).abs().max() < 0.05 * wanted.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        got = attention.float()(memory, where, memory, shapes)
    assert (got - wanted).abs().max() < 0.05 * wanted.abs().max()
