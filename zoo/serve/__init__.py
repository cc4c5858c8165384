"""A trained network as a local page and a JSON API. `zoo serve` gives it the run; `create_app` makes an ASGI application of it.

What needs FastAPI is in the files that say so: body, door, guard, app, server.
"""

from .batcher import Batcher as Batcher
from .limits import Limits as Limits
from .served import Classifier as Classifier
from .served import Searcher as Searcher
