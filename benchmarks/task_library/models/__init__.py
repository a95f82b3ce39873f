"""Models of the tasks that ``nn.Sequential`` alone cannot express."""

from .graphs import GraphConvolutions
from .images import (
    ColumnReader,
    DualEncoder,
    Mixer,
    PatchAttention,
    SmallUNet,
    TiedAutoencoder,
    VariationalAutoencoder,
    resnet56,
)
from .layers import CosineLinear, GaussianNoise, OrdinalThresholds, Residual, Sine, adapt_low_rank, mlp
from .sequences import (
    CharGRU,
    CharLSTM,
    CharTransformer,
    ConvGRU,
    DerivativeRollout,
    GRURegressor,
    LSTMRegressor,
    TextClassifier,
    TokenTransformer,
)
from .sets import DeepSets
from .tabular import CouplingFlow, MatrixFactorization

__all__ = [
    "CharGRU",
    "CharLSTM",
    "CharTransformer",
    "ColumnReader",
    "ConvGRU",
    "CosineLinear",
    "CouplingFlow",
    "DeepSets",
    "DerivativeRollout",
    "DualEncoder",
    "GRURegressor",
    "GaussianNoise",
    "GraphConvolutions",
    "LSTMRegressor",
    "MatrixFactorization",
    "Mixer",
    "OrdinalThresholds",
    "PatchAttention",
    "Residual",
    "Sine",
    "SmallUNet",
    "TextClassifier",
    "TiedAutoencoder",
    "TokenTransformer",
    "VariationalAutoencoder",
    "adapt_low_rank",
    "mlp",
    "resnet56",
]
