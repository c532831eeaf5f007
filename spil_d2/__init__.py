"""Instance search with localization on Detectron2. Importing registers models and datasets."""

from . import backbones as _backbones  # noqa: F401  registration
from . import data as _data  # noqa: F401  registration
from . import modeling as _modeling  # noqa: F401  registration
from . import retrieval as _retrieval  # noqa: F401  registration
from .config import add_spil_d2_config, get_cfg

__version__ = "0.1.0"

__all__ = ["__version__", "add_spil_d2_config", "get_cfg"]
