"""What a model is worth: numbers from logits or embeddings, for data of any size, with nothing looked up by name."""

from .classification import ClassificationMeter as ClassificationMeter
from .geometry import geometry as geometry
from .geometry import warning as warning
from .linear_probe import linear_probe as linear_probe
from .multi_label import MultiLabelMeter as MultiLabelMeter
from .retrieval import chance as chance
from .retrieval import retrieval as retrieval
from .retrieval import retrieve_both as retrieve_both
from .zero_shot import class_embeddings as class_embeddings
from .zero_shot import zero_shot as zero_shot
