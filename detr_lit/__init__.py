__version__ = "0.1.0"

from detr_lit.backbone import Backbone
from detr_lit.data import ToyDetectionDataset, collate, pad_images
from detr_lit.datasets import TreeCrowns
from detr_lit.decoder import TransformerDecoder, TransformerDecoderLayer
from detr_lit.denoising import Denoising, Groups
from detr_lit.detr import DETR, postprocess
from detr_lit.encoder import TransformerEncoder, TransformerEncoderLayer
from detr_lit.export import export_onnx
from detr_lit.heads import DetrPredictionHeads
from detr_lit.inference import predict, predict_and_visualize
from detr_lit.loss import DetrLoss
from detr_lit.matcher import HungarianMatcher
from detr_lit.position import LearnedPositionalEncoding2D, PositionalEncoding2D
from detr_lit.pretrained import as_transformers, evaluate_coco, load_official, refit
from detr_lit.train import RECIPES, Recipe, train_detr

__all__ = [
    "DETR", "RECIPES", "Backbone", "Denoising", "DetrLoss", "DetrPredictionHeads", "Groups", "HungarianMatcher", "LearnedPositionalEncoding2D", "PositionalEncoding2D", "Recipe",
    "ToyDetectionDataset", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer", "TreeCrowns", "as_transformers", "collate",
    "evaluate_coco", "export_onnx", "load_official", "pad_images", "postprocess", "predict", "predict_and_visualize", "refit", "train_detr",
]
