__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detr_lit.backbone import Backbone
    from detr_lit.data import ToyDetectionDataset, collate, pad_images
    from detr_lit.datasets import TreeCrowns
    from detr_lit.decoder import TransformerDecoder, TransformerDecoderLayer
    from detr_lit.denoising import Denoising, Groups
    from detr_lit.detr import DETR, postprocess
    from detr_lit.encoder import TransformerEncoder, TransformerEncoderLayer
    from detr_lit.export import export_onnx
    from detr_lit.folders import check_data, draw_sheet, open_dataset
    from detr_lit.heads import DetrPredictionHeads
    from detr_lit.inference import predict, predict_and_visualize
    from detr_lit.loss import DetrLoss
    from detr_lit.matcher import HungarianMatcher
    from detr_lit.position import LearnedPositionalEncoding2D, PositionalEncoding2D
    from detr_lit.pretrained import as_transformers, evaluate_coco, load_official, refit
    from detr_lit.train import RECIPES, Recipe, train_detr
    from detr_lit.voc import PascalVOC, evaluate_voc, start_from

# Where each name lives. It is fetched from there when first used, so that `import detr_lit` costs nothing.
_HOMES = {
    "backbone": "Backbone",
    "data": "ToyDetectionDataset collate pad_images",
    "datasets": "TreeCrowns",
    "decoder": "TransformerDecoder TransformerDecoderLayer",
    "denoising": "Denoising Groups",
    "detr": "DETR postprocess",
    "encoder": "TransformerEncoder TransformerEncoderLayer",
    "export": "export_onnx",
    "folders": "check_data draw_sheet open_dataset",
    "heads": "DetrPredictionHeads",
    "inference": "predict predict_and_visualize",
    "loss": "DetrLoss",
    "matcher": "HungarianMatcher",
    "position": "LearnedPositionalEncoding2D PositionalEncoding2D",
    "pretrained": "as_transformers evaluate_coco load_official refit",
    "train": "RECIPES Recipe train_detr",
    "voc": "PascalVOC evaluate_voc start_from",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Backbone", "DETR", "Denoising", "DetrLoss", "DetrPredictionHeads", "Groups", "HungarianMatcher",
    "LearnedPositionalEncoding2D", "PascalVOC", "PositionalEncoding2D", "RECIPES", "Recipe", "ToyDetectionDataset",
    "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer", "TreeCrowns",
    "as_transformers", "check_data", "collate", "draw_sheet", "evaluate_coco", "evaluate_voc", "export_onnx", "load_official",
    "open_dataset", "pad_images", "postprocess", "predict", "predict_and_visualize", "refit", "start_from", "train_detr",
]


def __getattr__(name: str) -> Any:
    if name in _HOME: return getattr(import_module(f"detr_lit.{_HOME[name]}"), name)
    raise AttributeError(f"module 'detr_lit' has no attribute {name!r}")


def __dir__() -> list[str]: return sorted({*globals(), *__all__})
