"""Every public function of the ops: what each module lists in its __all__."""

from . import activation as _activation
from . import adaptive as _adaptive
from . import aliases as _aliases
from . import arithmetic as _arithmetic
from . import attention as _attention
from . import bitwise as _bitwise
from . import channel_norm as _channel_norm
from . import conv as _conv
from . import counting as _counting
from . import custom as _custom
from . import distance as _distance
from . import dropout as _dropout
from . import einsum as _einsum
from . import elementary as _elementary
from . import foreach as _foreach
from . import getitem as _getitem
from . import grid as _grid
from . import indexing as _indexing
from . import join as _join
from . import leaf as _leaf
from . import likelihood_loss as _likelihood_loss
from . import linear_algebra as _linear_algebra
from . import linear_loss as _linear_loss
from . import logic as _logic
from . import loss as _loss
from . import margin_loss as _margin_loss
from . import matmul as _matmul
from . import matrix as _matrix
from . import norm as _norm
from . import numeric as _numeric
from . import padding as _padding
from . import parts as _parts
from . import piecewise as _piecewise
from . import pixel as _pixel
from . import pool as _pool
from . import position as _position
from . import random as _random
from . import ranges as _ranges
from . import reduce as _reduce
from . import replace as _replace
from . import resize as _resize
from . import sampling as _sampling
from . import scan as _scan
from . import scatter as _scatter
from . import shape as _shape
from . import softmax as _softmax
from . import sort as _sort
from . import special_functions as _special_functions
from . import statistics as _statistics
from . import view as _view
from . import weight_norm as _weight_norm
from . import window as _window
from .activation import *
from .adaptive import *
from .aliases import *
from .arithmetic import *
from .attention import *
from .bitwise import *
from .channel_norm import *
from .conv import *
from .counting import *
from .custom import *
from .distance import *
from .dropout import *
from .einsum import *
from .elementary import *
from .foreach import *
from .getitem import *
from .grid import *
from .indexing import *
from .join import *
from .leaf import *
from .likelihood_loss import *
from .linear_algebra import *
from .linear_loss import *
from .logic import *
from .loss import *
from .margin_loss import *
from .matmul import *
from .matrix import *
from .norm import *
from .numeric import *
from .padding import *
from .parts import *
from .piecewise import *
from .pixel import *
from .pool import *
from .position import *
from .random import *
from .ranges import *
from .reduce import *
from .replace import *
from .resize import *
from .sampling import *
from .scan import *
from .scatter import *
from .shape import *
from .softmax import *
from .sort import *
from .special_functions import *
from .statistics import *
from .view import *
from .weight_norm import *
from .window import *

__all__: list[str] = []
__all__ += _activation.__all__
__all__ += _adaptive.__all__
__all__ += _aliases.__all__
__all__ += _arithmetic.__all__
__all__ += _attention.__all__
__all__ += _bitwise.__all__
__all__ += _channel_norm.__all__
__all__ += _conv.__all__
__all__ += _counting.__all__
__all__ += _custom.__all__
__all__ += _distance.__all__
__all__ += _dropout.__all__
__all__ += _einsum.__all__
__all__ += _elementary.__all__
__all__ += _foreach.__all__
__all__ += _getitem.__all__
__all__ += _grid.__all__
__all__ += _indexing.__all__
__all__ += _join.__all__
__all__ += _leaf.__all__
__all__ += _likelihood_loss.__all__
__all__ += _linear_algebra.__all__
__all__ += _linear_loss.__all__
__all__ += _logic.__all__
__all__ += _loss.__all__
__all__ += _margin_loss.__all__
__all__ += _matmul.__all__
__all__ += _matrix.__all__
__all__ += _norm.__all__
__all__ += _numeric.__all__
__all__ += _padding.__all__
__all__ += _parts.__all__
__all__ += _piecewise.__all__
__all__ += _pixel.__all__
__all__ += _pool.__all__
__all__ += _position.__all__
__all__ += _random.__all__
__all__ += _ranges.__all__
__all__ += _reduce.__all__
__all__ += _replace.__all__
__all__ += _resize.__all__
__all__ += _sampling.__all__
__all__ += _scan.__all__
__all__ += _scatter.__all__
__all__ += _shape.__all__
__all__ += _softmax.__all__
__all__ += _sort.__all__
__all__ += _special_functions.__all__
__all__ += _statistics.__all__
__all__ += _view.__all__
__all__ += _weight_norm.__all__
__all__ += _window.__all__
