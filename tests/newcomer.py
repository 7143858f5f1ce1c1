"""The eleven parts as a newcomer may write them from the course page: its signatures, other names inside, nothing more."""

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from scipy.optimize import linear_sum_assignment
from torch import nn
from torchvision.ops import box_convert, generalized_box_iou

from detr_lit.decoder import TransformerDecoder as BookDecoder
from detr_lit.detr import DETR as BookDETR  # noqa: F401
from detr_lit.encoder import TransformerEncoder as BookEncoder
from detr_lit.loss import DetrLoss as BookLoss


# step 0
def tight_box(mask):
    ys, xs = np.nonzero(mask)
    x0, x1, y0, y1 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
    return (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0


class ToyDetectionDataset(torch.utils.data.Dataset):
    def __init__(self, num_samples=1000, image_size=128, max_objects=5, num_classes=3):
        self.n, self.size, self.most, self.classes = num_samples, image_size, max_objects, num_classes

    def __len__(self):
        return self.n

    def __getitem__(self, idx):
        if idx >= self.n:
            raise IndexError(idx)
        rng, s = np.random.default_rng(idx), self.size
        image, boxes, labels = torch.zeros(3, s, s), [], []
        column = s // self.most
        for k in range(rng.integers(1, self.most + 1)):  # a column each, so that nobody hides anybody
            w, h = rng.integers(column // 2, column), rng.integers(8, s // 2)
            x, y = k * column + rng.integers(0, column - w), rng.integers(0, s - h)
            image[:, y : y + h, x : x + w] = torch.tensor(rng.uniform(0.2, 1, (3, 1, 1))).float()
            boxes.append([(x + w / 2) / s, (y + h / 2) / s, w / s, h / s])
            labels.append(rng.integers(1, self.classes + 1))
        return image, {"boxes": torch.tensor(np.array(boxes)).float(), "labels": torch.tensor(np.array(labels))}


def pad_images(images):
    h, w = max(i.shape[1] for i in images), max(i.shape[2] for i in images)
    batch = torch.stack([F.pad(i, (0, w - i.shape[2], 0, h - i.shape[1])) for i in images])
    mask = torch.stack([F.pad(torch.zeros(i.shape[1:]), (0, w - i.shape[2], 0, h - i.shape[1]), value=1) for i in images])
    return batch, mask.bool()


# step 1
class Residual(nn.Module):
    def __init__(self, c, make):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c, c, 3, padding=1, bias=False), make(c)
        self.conv2, self.norm2 = nn.Conv2d(c, c, 3, padding=1, bias=False), make(c)

    def forward(self, x):
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Backbone(nn.Module):
    def __init__(self, d_model=256, name="resnet18"):
        super().__init__()
        net = getattr(torchvision.models, name)(weights=None)
        self.trunk = nn.Sequential(*list(net.children())[:-2])
        self.conv = nn.Conv2d(net.fc.in_features, d_model, 1)

    def forward(self, x):
        return self.conv(self.trunk(x))


# step 2
class PositionalEncoding2D(nn.Module):
    def __init__(self, d_model=256, temperature=10000.0):
        super().__init__()
        self.d, self.t = d_model, temperature

    def line(self, n):
        where = torch.arange(1, n + 1) / n * 2 * torch.pi
        code = torch.zeros(n, self.d // 2)
        for i in range(self.d // 4):
            code[:, 2 * i] = torch.sin(where / self.t ** (2 * i / (self.d // 2)))
            code[:, 2 * i + 1] = torch.cos(where / self.t ** (2 * i / (self.d // 2)))
        return code

    def forward(self, x):
        b, _, h, w = x.shape
        rows, columns = self.line(h)[:, None].expand(h, w, -1), self.line(w)[None].expand(h, w, -1)
        return torch.cat([rows, columns], -1).permute(2, 0, 1)[None].expand(b, -1, -1, -1)


class LearnedPositionalEncoding2D(nn.Module):
    def __init__(self, d_model=256, size=50):
        super().__init__()
        self.rows, self.columns = nn.Embedding(size, d_model // 2), nn.Embedding(size, d_model // 2)

    def forward(self, x):
        b, _, h, w = x.shape
        y, x = self.rows(torch.arange(h))[:, None].expand(h, w, -1), self.columns(torch.arange(w))[None].expand(h, w, -1)
        return torch.cat([y, x], 2).permute(2, 0, 1).repeat(b, 1, 1, 1)


# step 3
class TransformerEncoderLayer(nn.Module):
    def __init__(self, d_model=256, n_heads=8, dim_ff=2048, dropout=0.1):
        super().__init__()
        self.att = nn.MultiheadAttention(d_model, n_heads, dropout=dropout, batch_first=True)
        self.ln1 = nn.LayerNorm(d_model)
        self.lin1, self.lin2 = nn.Linear(d_model, dim_ff), nn.Linear(dim_ff, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.drop = nn.Dropout(dropout)

    def forward(self, x, pos):
        x = self.ln1(x + self.drop(self.att(x + pos, x + pos, x)[0]))
        return self.ln2(x + self.drop(self.lin2(self.drop(F.relu(self.lin1(x))))))


class TransformerEncoder(nn.Module):
    def __init__(self, n_layers=6, **layer_kwargs):
        super().__init__()
        self.layers = nn.ModuleList([TransformerEncoderLayer(**layer_kwargs) for _ in range(n_layers)])

    def forward(self, x, pos):
        for layer in self.layers:
            x = layer(x, pos)
        return x


# step 4
class TransformerDecoderLayer(nn.Module):
    def __init__(self, d_model=256, n_heads=8, dim_ff=2048, dropout=0.1):
        super().__init__()
        self.att = nn.MultiheadAttention(d_model, n_heads, dropout, batch_first=True)
        self.look = nn.MultiheadAttention(d_model, n_heads, dropout, batch_first=True)
        self.lin1, self.lin2 = nn.Linear(d_model, dim_ff), nn.Linear(dim_ff, d_model)
        self.ln1, self.ln2, self.ln3 = nn.LayerNorm(d_model), nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.drop = nn.Dropout(dropout)

    def forward(self, tgt, memory, pos, query_pos):
        q = tgt + query_pos
        tgt = self.ln1(tgt + self.drop(self.att(q, q, tgt)[0]))
        tgt = self.ln2(tgt + self.drop(self.look(tgt + query_pos, memory + pos, memory)[0]))
        return self.ln3(tgt + self.drop(self.lin2(self.drop(F.relu(self.lin1(tgt))))))


class TransformerDecoder(nn.Module):
    def __init__(self, n_layers=6, d_model=256, **layer_kwargs):
        super().__init__()
        self.layers = nn.ModuleList([TransformerDecoderLayer(d_model, **layer_kwargs) for _ in range(n_layers)])
        self.last = nn.LayerNorm(d_model)

    def forward(self, tgt, memory, pos, query_pos):
        outs = []
        for layer in self.layers:
            tgt = layer(tgt, memory, pos, query_pos)
            outs.append(self.last(tgt))
        return outs


# step 5
class DetrPredictionHeads(nn.Module):
    def __init__(self, d_model=256, num_classes=3):
        super().__init__()
        self.kind = nn.Linear(d_model, num_classes + 1)
        self.a, self.b, self.c = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model), nn.Linear(d_model, 4)

    def forward(self, x):
        return self.kind(x), torch.sigmoid(self.c(F.relu(self.b(F.relu(self.a(x))))))


# step 6
def pairwise_giou(a, b):
    return torch.stack([generalized_box_iou(x, y) for x, y in zip(a, b)])


class HungarianMatcher(nn.Module):
    def __init__(self, cost_class=1.0, cost_bbox=5.0, cost_giou=2.0):
        super().__init__()
        self.w = cost_class, cost_bbox, cost_giou

    @torch.no_grad()
    def forward(self, outputs, targets):
        found = []
        for logits, boxes, t in zip(outputs["pred_logits"], outputs["pred_boxes"], targets):
            p = logits.softmax(-1)[:, t["labels"]]
            l1 = torch.cdist(boxes, t["boxes"], p=1)
            giou = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(t["boxes"], "cxcywh", "xyxy"))
            cost = -self.w[0] * p + self.w[1] * l1 + self.w[2] * (1 - giou)
            i, j = linear_sum_assignment(cost.numpy())
            found.append((torch.tensor(i, dtype=torch.int64), torch.tensor(j, dtype=torch.int64)))
        return found


# step 7
class DetrLoss(nn.Module):
    def __init__(self, num_classes=3, matcher=None, weight_class=1.0, weight_bbox=5.0, weight_giou=2.0, noobj_weight=0.1):
        super().__init__()
        self.matcher, self.w = matcher or HungarianMatcher(), (weight_class, weight_bbox, weight_giou)
        self.weight = torch.ones(num_classes + 1)
        self.weight[0] = noobj_weight

    def one(self, outputs, targets):
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        wanted = torch.zeros(logits.shape[:2], dtype=torch.int64)
        n, l1, giou = max(sum(len(t["labels"]) for t in targets), 1), 0 * boxes.sum(), 0 * boxes.sum()
        for b, (i, j) in enumerate(self.matcher(outputs, targets)):
            wanted[b, i] = targets[b]["labels"][j]
            mine, theirs = boxes[b, i], targets[b]["boxes"][j]
            l1 = l1 + (mine - theirs).abs().sum() / n
            overlap = generalized_box_iou(box_convert(mine, "cxcywh", "xyxy"), box_convert(theirs, "cxcywh", "xyxy"))
            giou = giou + (1 - overlap.diag()).sum() / n
        return F.cross_entropy(logits.transpose(1, 2), wanted, self.weight), l1, giou

    def forward(self, outputs, targets):
        terms = self.one(outputs, targets)
        total = sum(w * t for w, t in zip(self.w, terms))
        for aux in outputs.get("aux_outputs", []):
            total = total + sum(w * t for w, t in zip(self.w, self.one(aux, targets)))
        return dict(zip(("loss_class", "loss_bbox", "loss_giou"), terms)) | {"total": total}


def set_statistics(outputs, targets, pairs):
    wrong, silent, off, n = 0.0, 0.0, 0.0, sum(len(i) for i, _ in pairs)
    top, p = outputs["pred_logits"].argmax(-1), outputs["pred_logits"].softmax(-1)
    for b, (i, j) in enumerate(pairs):
        wrong += (top[b, i] != targets[b]["labels"][j]).sum().item()
        silent += p[b, i, 0].sum().item()
        off += abs((top[b] != 0).sum().item() - len(targets[b]["labels"]))
    return dict(class_error=wrong / n, cardinality_error=off / len(targets), no_object=(top == 0).float().mean().item(),
                matched_no_object=silent / n)  # fmt: skip


# step 8
def shrink_mask(mask, size):
    rows, columns = (torch.arange(n) * full // n for n, full in zip(size, mask.shape[1:]))
    return mask[:, rows][:, :, columns]


class DETR(nn.Module):
    def __init__(self, num_classes=3, num_queries=100, d_model=256, n_heads=8, n_enc_layers=6, n_dec_layers=6, dim_ff=2048,
                 backbone_name="resnet18"):  # fmt: skip
        super().__init__()
        layer = dict(d_model=d_model, n_heads=n_heads, dim_ff=dim_ff)
        self.query_embed = nn.Embedding(num_queries, d_model)
        self.backbone, self.places = Backbone(d_model, backbone_name), PositionalEncoding2D(d_model)
        self.encoder, self.decoder = BookEncoder(n_enc_layers, **layer), BookDecoder(n_dec_layers, **layer)
        self.heads = DetrPredictionHeads(d_model, num_classes)

    def forward(self, images):
        mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        x = self.backbone((images - mean) / std)
        pos = self.places(x).flatten(2).permute(0, 2, 1)
        memory = self.encoder(x.flatten(2).permute(0, 2, 1), pos)
        queries = self.query_embed.weight[None].repeat(len(images), 1, 1)
        answers = [self.heads(h) for h in self.decoder(torch.zeros_like(queries), memory, pos, queries)]
        layers = [dict(pred_logits=logits, pred_boxes=boxes) for logits, boxes in answers]
        return layers[-1] | dict(aux_outputs=layers[:-1])


def postprocess(outputs, sizes):
    found = []
    for logits, boxes, (h, w) in zip(outputs["pred_logits"], outputs["pred_boxes"], sizes.tolist()):
        scores, labels = logits.softmax(-1)[:, 1:].max(-1)
        cx, cy, bw, bh = boxes.unbind(-1)
        corners = torch.stack([(cx - bw / 2) * w, (cy - bh / 2) * h, (cx + bw / 2) * w, (cy + bh / 2) * h], -1)
        found.append(dict(scores=scores, labels=labels + 1, boxes=corners, queries=torch.arange(len(scores))))
    return found


# step 9
def make_optimizers(model, recipe):
    slow = [p for n, p in model.named_parameters() if n.startswith("backbone.body") and p.requires_grad]
    rest = [p for n, p in model.named_parameters() if not n.startswith("backbone.body") and p.requires_grad]
    groups = [dict(params=rest, lr=recipe.lr), dict(params=slow, lr=recipe.lr_backbone)]
    return [torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay)]


class Trainer:
    def __init__(self, model, recipe, device):
        self.model, self.clip = model.to(device).train(), recipe.clip
        self.criterion = BookLoss(model.num_classes, noobj_weight=recipe.noobj_weight)
        (self.optimizer,) = make_optimizers(model, recipe)
        self.sizes = [g["lr"] for g in self.optimizer.param_groups]

    def step(self, batch, factor=1.0):
        images, mask, targets = batch
        outputs = self.model(images)
        losses = self.criterion(outputs, targets)
        self.optimizer.zero_grad()
        losses["total"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for group, lr in zip(self.optimizer.param_groups, self.sizes):
            group["lr"] = lr * factor
        self.optimizer.step()
        return losses | dict(grad_norm=norm), outputs, targets


# step 10
@torch.no_grad()
def predict(model, images, score_threshold=0.7):
    training = model.training
    model.eval()
    outputs = model(images)
    model.train(training)
    found = postprocess(outputs, torch.tensor([images.shape[2:]] * len(images)))
    top = outputs["pred_logits"].argmax(-1)
    return [{k: v[(t != 0) & (d["scores"] >= score_threshold)] for k, v in d.items()} for d, t in zip(found, top)]


@torch.no_grad()
def attention_maps(model, image):
    training = model.training
    out = model.eval()(image[None], return_attention=True)
    model.train(training)
    h, w = out["feature_size"]
    return dict(decoder=torch.stack([a[0].reshape(*a.shape[1:3], h, w) for a in out["decoder_attention"]]))


def attention_entropy(maps):
    shares = maps.flatten(-2)
    return -(shares * shares.clamp(min=1e-30).log()).sum(-1) / np.log(shares.shape[-1])


def predict_and_visualize(model, image, score_threshold=0.7):
    found, maps = predict(model, image[None], score_threshold)[0], attention_maps(model, image)["decoder"]
    figure, axes = plt.subplots(1, 1 + len(found["scores"]), squeeze=False)
    axes[0, 0].imshow(image.permute(1, 2, 0).numpy())
    for ax, i in zip(axes[0, 1:], found["scores"].argsort(descending=True).tolist()):
        heat = maps[-1, :, found["queries"][i]].mean(0)
        ax.imshow((heat / heat.max()).numpy())
    return found, figure
