"""A route of the control port: verb, pattern of the path, and what answers it.

The path's groups are the action's positional arguments, the body's fields its keyword arguments.
"""

from collections.abc import Callable
from typing import Any

Action = Callable[..., Any]
Route = tuple[str, str, Action]
