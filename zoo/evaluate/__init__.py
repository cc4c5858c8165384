"""What a model is worth: numbers from logits or embeddings, for data of any size, with nothing looked up by name."""

from .classification import ClassificationMeter as ClassificationMeter
from .retrieval import chance as chance
from .retrieval import retrieval as retrieval
from .retrieval import retrieve_both as retrieve_both
