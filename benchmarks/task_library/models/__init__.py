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
from .layers import CosineLinear, OrdinalThresholds, Residual, Sine, adapt_low_rank, mlp
from .sequences import (
    CharGRU,
    CharTransformer,
    ConvGRU,
    DerivativeRollout,
    GRURegressor,
    LSTMRegressor,
    TextClassifier,
)
from .tabular import CouplingFlow, MatrixFactorization

__all__ = [
    "CharGRU",
    "CharTransformer",
    "ColumnReader",
    "ConvGRU",
    "CosineLinear",
    "CouplingFlow",
    "DerivativeRollout",
    "DualEncoder",
    "GRURegressor",
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
    "VariationalAutoencoder",
    "adapt_low_rank",
    "mlp",
    "resnet56",
]
