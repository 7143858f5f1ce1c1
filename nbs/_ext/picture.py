"""Draw the README's picture, nbs/assets/readme.png, with the weights `trees`.

    .venv/bin/python nbs/_ext/picture.py
"""
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from detr_lit.datasets import TreeCrowns
from detr_lit.detr import DETR
from detr_lit.inference import attention_maps, draw_attention, draw_detections, predict

NBS = Path(__file__).parents[1]
X, Y, W, H = 400, 300, 624, 416                      # a piece of the held-out photograph, three windows by two


def main() -> None:
    model, photo = DETR.from_pretrained("trees"), TreeCrowns("val", NBS / "runs" / "tree_photos")
    piece = photo.photo[:, Y:Y + H, X:X + W].float() / 255
    fig, axes = plt.subplot_mosaic([["all", "0"], ["all", "1"], ["all", "2"]], figsize=(10.4, 5), dpi=100,
                                   width_ratios=[4.6, 1], layout="constrained")
    draw_detections(axes["all"], piece, predict(model, piece, 0.5)[0], text=False)
    window = max((image for image, _ in photo), key=lambda image: len(predict(model, image, 0.5)[0]["scores"]))
    found, heat = predict(model, window, 0.5)[0], attention_maps(model, window)["decoder"][-1].mean(0)
    surest = found["scores"].argsort(descending=True)[:3]
    for k, i in enumerate(surest):
        draw_attention(axes[str(k)], window, heat[found["queries"][i]])
        x0, y0, x1, y1 = found["boxes"][i].tolist()
        axes[str(k)].add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="C0", lw=1.5))
    fig.savefig(NBS / "assets" / "readme.png", facecolor="white")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
