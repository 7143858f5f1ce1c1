"""The questions of nbs/quiz.toml: well formed, fair, their links lead somewhere, and what code can prove is proved."""

import concordance
import pytest
import quiz
import torch

ROOT = __import__("pathlib").Path(__file__).resolve().parents[1]
QUESTIONS = quiz.load(ROOT / quiz.QUIZ)


def toy():
    "The first picture of step 6: three objects and four queries."
    objects = [[0.30, 0.50, 0.20, 0.40], [0.54, 0.50, 0.20, 0.40], [0.80, 0.30, 0.20, 0.20]]
    return dict(labels=torch.tensor([2, 2, 3]), objects=torch.tensor(objects))


def small():
    sizes = dict(num_queries=9, d_model=64, n_heads=4, n_enc_layers=1, n_dec_layers=3, dim_ff=96)
    return dict(sizes, backbone_name="convnet", norm="batch", stride=16)


@pytest.mark.parametrize("q", QUESTIONS, ids=lambda q: q["id"])
def test_the_answer_is_right(q):
    exec(compile(q["check"], f"check of {q['id']}", "exec"), dict(torch=torch, tensor=torch.tensor, toy=toy(), small=small(), ROOT=ROOT))
