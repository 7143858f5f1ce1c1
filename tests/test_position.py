"""Step 2: position codes against plain loops, masks, sizes, types, and their errors."""
import inspect
import math

import pytest
import torch

from detr_lit.position import LearnedPositionalEncoding2D, PositionalEncoding2D, check_mask


def by_loops(mask: torch.Tensor, d: int, temperature: float) -> torch.Tensor:
    "Appendix A.4 again, one number at a time and in double precision. mask [H, W], True is padding; -> [d, H, W]."
    H, W = mask.shape
    out = torch.zeros(d, H, W, dtype=torch.float64)
    for r in range(H):
        for c in range(W):
            above = sum(not mask[i, c] for i in range(r + 1))
            left = sum(not mask[r, j] for j in range(c + 1))
            tall = sum(not mask[i, c] for i in range(H))
            wide = sum(not mask[r, j] for j in range(W))
            for k, (at, size) in enumerate(((above, tall), (left, wide))):
                angle = at / (size + 1e-6) * 2 * math.pi
                for i in range(d // 2):
                    turn = angle / temperature ** (2 * (i // 2) / (d // 2))
                    out[k * d // 2 + i, r, c] = math.cos(turn) if i % 2 else math.sin(turn)
    return out


def masks() -> torch.Tensor:
    "A picture that fills the batch, one padded below and right, one padded on the right only."
    mask = torch.zeros(3, 5, 7, dtype=torch.bool)
    mask[1, 3:], mask[1, :, 4:], mask[2, :, 1:] = True, True, True
    return mask


# ------------------------------------------------------------ the sine codes
@pytest.mark.parametrize("d, temperature", [(8, 10000.0), (16, 20.0), (4, 10000.0), (12, 100.0)])
def test_against_plain_loops(d, temperature):
    got = PositionalEncoding2D(d, temperature)(torch.zeros(3, 2, 5, 7), masks())
    want = torch.stack([by_loops(m, d, temperature) for m in masks()])
    assert got.shape == (3, d, 5, 7) and torch.allclose(got.double(), want, atol=1e-5)


def test_real_size_against_loops_at_some_cells():
    got = PositionalEncoding2D()(torch.zeros(1, 1, 25, 34))[0]
    for r, c in ((0, 0), (24, 33), (11, 7)):
        p = [(r + 1) / 25 * 2 * math.pi, (c + 1) / 34 * 2 * math.pi]
        want = [f(q / 10000 ** (2 * k / 128)) for q in p for k in range(64) for f in (math.sin, math.cos)]
        assert torch.allclose(got[:, r, c], torch.tensor(want), atol=1e-4)


def test_padding_changes_nothing():
    pe = PositionalEncoding2D(16)
    padded = pe(torch.zeros(3, 2, 5, 7), masks())
    for i, (h, w) in enumerate(((5, 7), (3, 4), (5, 1))):
        assert torch.allclose(padded[i, :, :h, :w], pe(torch.zeros(1, 2, h, w))[0], atol=1e-5)


def test_no_mask_is_an_empty_mask():
    pe, x = PositionalEncoding2D(8), torch.zeros(2, 3, 4, 5)
    assert torch.equal(pe(x), pe(x, torch.zeros(2, 4, 5, dtype=torch.bool)))


def test_a_picture_that_is_all_padding_is_finite():
    assert PositionalEncoding2D(8)(torch.zeros(1, 1, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool)).isfinite().all()


def test_only_the_shape_of_x_matters():
    pe = PositionalEncoding2D(8)
    assert torch.equal(pe(torch.randn(2, 5, 4, 6)), pe(torch.full((2, 1, 4, 6), torch.nan)))


@pytest.mark.parametrize("make", [PositionalEncoding2D, LearnedPositionalEncoding2D])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_type_follows_x(make, dtype):
    assert make(8)(torch.zeros(1, 1, 2, 2, dtype=dtype)).dtype == dtype


def test_low_precision_loses_only_the_last_rounding():
    pe = PositionalEncoding2D(32)
    fine, coarse = pe(torch.zeros(1, 1, 40, 40)), pe(torch.zeros(1, 1, 40, 40, dtype=torch.bfloat16))
    assert torch.equal(coarse, fine.bfloat16())


def test_one_place_one_code_at_every_size():
    pe = PositionalEncoding2D(32)
    small, large = pe(torch.zeros(1, 1, 10, 10)), pe(torch.zeros(1, 1, 20, 40))
    assert torch.allclose(small[..., 4, 4], large[..., 9, 19], atol=1e-4)


def test_without_normalisation_p_is_the_count():
    pe = PositionalEncoding2D(8, normalize=False)
    assert torch.allclose(pe(torch.zeros(1, 1, 3, 9))[0, :4, 2, 5], pe.waves(torch.tensor(3.0)))
    assert torch.allclose(pe(torch.zeros(1, 1, 3, 9))[0, 4:, 2, 5], pe.waves(torch.tensor(6.0)))


def test_waves_are_bounded_and_of_equal_length():
    waves = PositionalEncoding2D(64).waves(torch.linspace(0, 7, 50))
    assert waves.shape == (50, 32) and torch.allclose(waves.square().sum(-1), torch.tensor(16.0))


def test_no_state():
    "As the official module: nothing to train, nothing in the checkpoint."
    pe = PositionalEncoding2D()
    assert not list(pe.parameters()) and not pe.state_dict()


def test_defaults():
    pe = PositionalEncoding2D()
    assert (pe.d_model, pe.temperature, pe.normalize, pe.scale) == (256, 10000.0, True, 2 * math.pi)


# ------------------------------------------------------------ the learned codes
def test_learned_is_a_table():
    pe = LearnedPositionalEncoding2D(6, size=9)
    got = pe(torch.zeros(2, 1, 4, 9))
    assert got.shape == (2, 6, 4, 9)
    for r in range(4):
        for c in range(9):
            assert torch.equal(got[1, :, r, c], torch.cat([pe.row.weight[r], pe.col.weight[c]]))


def test_learned_starts_uniform_and_trains_only_what_it_sees():
    pe = LearnedPositionalEncoding2D(64)
    for table in (pe.row.weight, pe.col.weight):
        assert table.shape == (50, 32) and 0 <= table.min() and table.max() <= 1 and abs(table.mean() - .5) < .05
    pe(torch.zeros(1, 1, 4, 6)).square().sum().backward()
    assert (pe.row.weight.grad[:4] != 0).all() and (pe.row.weight.grad[4:] == 0).all()
    assert (pe.col.weight.grad[:6] != 0).all() and (pe.col.weight.grad[6:] == 0).all()


# ------------------------------------------------------------ named errors
@pytest.mark.parametrize("d", [6, 10, 255])
def test_d_model_must_divide(d):
    with pytest.raises(ValueError, match=f"d_model is {d}; it must be divisible by 4"):
        PositionalEncoding2D(d)


def test_learned_d_model_must_be_even():
    with pytest.raises(ValueError, match="d_model is 7; it must be even"):
        LearnedPositionalEncoding2D(7)


@pytest.mark.parametrize("size", [(51, 3), (3, 84)])
def test_learned_too_large(size):
    with pytest.raises(ValueError, match=f"feature map is {size[0]} x {size[1]}; this encoding has learned 50"):
        LearnedPositionalEncoding2D(8)(torch.zeros(1, 1, *size))


@pytest.mark.parametrize("make", [PositionalEncoding2D, LearnedPositionalEncoding2D])
def test_mask_of_the_wrong_shape(make):
    "With the run-time checks of the tests, the annotation speaks first; a user without them gets ValueError."
    x, mask = torch.zeros(2, 1, 3, 4), torch.zeros(2, 4, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mask has shape \(2, 4, 3\); these features want \(2, 3, 4\)"):
        inspect.unwrap(make.forward)(make(8), x, mask)
    with pytest.raises(ValueError, match="mask has shape"):
        check_mask(x, mask[0])
