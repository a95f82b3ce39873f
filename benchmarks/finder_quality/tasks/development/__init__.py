"""The tasks on which a finder's constants may be chosen, by the kind of their data."""

from ....task_library.definition import Split
from .classification import CLASSIFICATION
from .digits import DIGITS
from .image_codes import IMAGE_CODES
from .images import IMAGES
from .regression import REGRESSION
from .saddles import SADDLES
from .sequences import SEQUENCES
from .varied import VARIED

DEVELOPMENT = Split(
    {**DIGITS, **IMAGES, **IMAGE_CODES, **SEQUENCES, **CLASSIFICATION, **REGRESSION, **SADDLES, **VARIED}
)
