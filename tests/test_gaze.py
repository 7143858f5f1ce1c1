"""Step 4b: cell centres, the penalty for distance, points between cells."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detr_lit.decoder import TransformerDecoder
from detr_lit.gaze import Gaze, GivenAttention, Points, cell_centres, look_near_boxes, tents


def test_cell_centres():
    plain = cell_centres(torch.zeros(1, 8, 2, 4))[0]
    torch.testing.assert_close(plain[1, 2], torch.tensor([2.5 / 4, 1.5 / 2]))  # x before y
    mask = torch.ones(1, 5, 7, dtype=torch.bool)
    mask[:, :2, :4] = False
    padded = cell_centres(torch.zeros(1, 8, 5, 7), mask)[0]
    torch.testing.assert_close(padded[:2, :4], plain)
    assert padded.isfinite().all() and (padded[..., 4:, 0] > 1).all() and (padded[2:, :, 1] > 1).all()
    assert cell_centres(torch.zeros(1, 8, 5, 7), torch.ones(1, 5, 7, dtype=torch.bool)).isfinite().all()


def test_gaze_by_hand():
    "-((x - ax) / sx)^2 / 2 - ((y - ay) / sy)^2 / 2 about each head's point, in quarters; -20 at least; -inf on padding."
    gaze, cells = Gaze(8, n_heads=2), cell_centres(torch.zeros(1, 8, 4, 6))
    torch.nn.init.normal_(gaze.aim.weight, std=0.3)
    ask, box = torch.randn(1, 3, 8), torch.rand(1, 3, 4)
    box[0, 0, 2:] = 0.02  # a small box: far cells are many
    hidden = torch.zeros(1, 24, dtype=torch.bool)
    hidden[0, -2:] = True
    bias = gaze(ask, box, cells, hidden)
    assert bias.shape == (1, 2, 3, 24) and (bias[..., -2:] == -torch.inf).all()
    assert (bias[0, :, 0] == -20).any() and (bias[0, :, 0, :-2] > -20).any()
    for n in range(3):
        cx, cy, w, h = box[0, n].tolist()
        for head, (px, py, rx, ry) in enumerate(gaze.aim(ask[0, n]).view(2, 4).tolist()):
            for cell, (x, y) in enumerate(cells[0].flatten(0, 1)[:-2].tolist()):
                sx, sy = max(w / 4 * math.exp(rx / 4), 0.02), max(h / 4 * math.exp(ry / 4), 0.02)
                wanted = -(((x - cx - w / 4 * px) / sx) ** 2) / 2 - ((y - cy - h / 4 * py) / sy) ** 2 / 2
                assert bias[0, head, n, cell].item() == pytest.approx(max(wanted, -20), rel=1e-3, abs=1e-3)


def test_tents_interpolate_as_torch_does():
    values, at = torch.randn(5, 7), torch.rand(40, 2) * 1.4 - 0.2  # some outside
    middles = cell_centres(torch.zeros(1, 1, 5, 7))[0]
    row, column = tents(at[:, 1], middles[:, 0, 1]), tents(at[:, 0], middles[0, :, 0])
    wanted = F.grid_sample(values[None, None], 2 * at[None, None] - 1, align_corners=False).flatten()
    torch.testing.assert_close(torch.einsum("ph,pw,hw->p", row, column, values), wanted, rtol=1e-4, atol=1e-5)


def points_by_loop(points, ask, box, memory):
    "One point at a time, read by torch's own interpolation: [B, N, heads, D]."
    B, D, _, _ = memory.shape
    heads, P = points.aim.out_features // 3 // points.n_points, points.n_points
    out = torch.zeros(B, ask.shape[1], heads, D)
    for b in range(B):
        for n in range(ask.shape[1]):
            aim, (cx, cy, w, h) = points.aim(ask[b, n]).view(heads, P, 3), box[b, n]
            for head in range(heads):
                weight = aim[head, :, 2].softmax(0)
                for p in range(P):
                    x, y = cx + w * aim[head, p, 0] / (2 * P), cy + h * aim[head, p, 1] / (2 * P)
                    at = torch.stack([2 * x - 1, 2 * y - 1]).view(1, 1, 1, 2)
                    read = F.grid_sample(memory[b : b + 1], at, align_corners=False)[0, :, 0, 0]
                    out[b, n, head] += weight[p] * read
    return out


def test_points_by_loop():
    points, memory = Points(8, n_heads=2, n_points=3), torch.randn(2, 8, 4, 6)
    nn.init.normal_(points.aim.weight, std=0.5)
    ask, box = torch.randn(2, 3, 8), torch.rand(2, 3, 4)
    shares = points(ask, box, cell_centres(memory))
    assert shares.shape == (2, 2, 3, 24) and (shares >= 0).all() and (shares.sum(-1) < 1 + 1e-5).all()
    got = torch.einsum("bhnl,bdl->bnhd", shares, memory.flatten(2))
    torch.testing.assert_close(got, points_by_loop(points, ask, box, memory), rtol=1e-4, atol=1e-5)


def test_points_read_nothing_in_the_padding():
    points, memory = Points(8, n_heads=2), torch.randn(1, 8, 4, 6)
    nn.init.normal_(points.aim.weight, std=0.5)
    ask, box = torch.randn(1, 3, 8), torch.rand(1, 3, 4)
    wider = F.pad(memory, (0, 3, 0, 2), value=9.0)
    mask = torch.ones(1, 6, 9, dtype=torch.bool)
    mask[:, :4, :6] = False
    plain = points(ask, box, cell_centres(memory)).unflatten(-1, (4, 6))
    padded = points(ask, box, cell_centres(wider, mask), mask.flatten(1)).unflatten(-1, (6, 9))
    torch.testing.assert_close(padded[..., :4, :6], plain)
    assert (padded[..., 4:, :] == 0).all() and (padded[..., 6:] == 0).all()


def test_fresh_points_are_rays_from_the_middle_to_the_sides():
    at, weight = Points(8, n_heads=4, n_points=2).places(torch.randn(1, 1, 8), torch.tensor([[[0.5, 0.5, 0.4, 0.2]]]))
    assert torch.allclose(weight, torch.tensor(0.5))
    ends = torch.tensor([[0.7, 0.5], [0.5, 0.6], [0.3, 0.5], [0.5, 0.4]])
    torch.testing.assert_close(at[0, :, 0, 1], ends)
    torch.testing.assert_close(at[0, :, 0, 0], (ends + 0.5) / 2)


def test_points_have_a_gradient_for_place_weight_and_box():
    points, memory = Points(8, n_heads=2), torch.randn(1, 8, 4, 6)
    ask, box = torch.randn(1, 3, 8, requires_grad=True), torch.full((1, 3, 4), 0.4, requires_grad=True)
    (points(ask, box, cell_centres(memory)) @ torch.randn(24)).sum().backward()
    grads = points.aim.bias.grad.view(2, 4, 3)
    assert (grads[..., :2].abs().sum(-1) > 0).any() and (grads[..., 2] != 0).all() and (box.grad != 0).all()


def test_given_attention_is_attention():
    dense, given = nn.MultiheadAttention(8, 2, batch_first=True), GivenAttention(8, 2)
    nn.init.normal_(dense.in_proj_bias)
    given.value.weight.data, given.value.bias.data = dense.in_proj_weight[-8:].data, dense.in_proj_bias[-8:].data
    given.out_proj.load_state_dict(dense.out_proj.state_dict())
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    wanted, shares = dense(query, memory, memory, average_attn_weights=False)
    got, same = given(query, memory, memory, None, True, shares.flatten(0, 1))
    torch.testing.assert_close(got, wanted)
    assert torch.equal(same, shares)


def test_look_near_boxes():
    decoder = TransformerDecoder(2, d_model=8, n_heads=2, dim_ff=16)
    assert look_near_boxes(decoder, None, 8, 2) is None
    assert [type(g) for g in look_near_boxes(decoder, "soft", 8, 2)] == [Gaze, Gaze]
    assert all(isinstance(layer.cross_attn, nn.MultiheadAttention) for layer in decoder.layers)
    assert [type(g) for g in look_near_boxes(decoder, "points", 8, 2)] == [Points, Points]
    assert all(isinstance(layer.cross_attn, GivenAttention) for layer in decoder.layers)
    with pytest.raises(ValueError, match="gaze is 'hard'; it must be None, 'soft' or 'points'"):
        look_near_boxes(decoder, "hard", 8, 2)
