"""The kinds of things that are chosen by name, each with the contract that its entries keep. Standard library only.

A new entry is three lines in any file that gets imported (or an entry point of the group named with the kind):

    @ATTENTION.register("mine")
    class Mine(nn.Module): ...
"""

from .table import Registry as Registry
from .table import UnknownName as UnknownName
from .table import nearest as nearest

ATTENTION = Registry("attention", group="effnet_zoo.attention")
"""Gates for convolutional feature maps.

`cls(channels, *, rd_ratio=..., act_layer=..., calm=False, device=None, dtype=None, **own)` maps `[B, C, H, W]` to the same shape.
Constructible at 8 channels; any H, W >= 1; batch 1 in train mode; keeps channels_last; statistics in float32 under half precision;
works with torch.compile, torch.export, ONNX, FX and TorchScript. Called directly, the defaults are the paper's.
`init_weights()` puts the parameters to their start: the paper's, or with `calm=True` one at which the gate is constant.
`attends` says what it weighs: "channel", "spatial", "both", or "nothing".
`no_weight_decay()` names the parameters that weight decay must leave alone. A gate that reads nothing is a plain `nn.Identity`.
`narrow(keep)` makes it, in place, a gate for these of its channels (indices, ascending), weights taken over; widths inside stay where
little is to be gained. Without it a network with the gate cannot be pruned. `keep` is any subset, unless the gate says otherwise by a
number: `channel_unit`: channels come and go in runs of so many; `channel_parts`: of so many equal parts, as many of each. A gate that moves
channels about has `channel_order(channels)`, the input channel at each place of its output.
"""

TOWERS = Registry("tower", group="effnet_zoo.towers")
"""Encoders of everything that is not a picture (a picture's tower is any timm model).

`cls(**own)` with JSON arguments only, which `.config` gives back; `.num_features` is the width of its output; `forward(batch)` maps the
tensor that `.prepare(list_of_raw_values)` makes, in the processes that read the data, to `[B, num_features]`. `reads` says what they are:
"text" (str), "table" (dict of columns, missing cells left out), "vector" (numbers, or a .npy file) or "audio" (a sound file, or samples and
rate). What is learned from the training split's values comes in by `tokenizer=`, where __init__ has it (zoo/towers/tokenizer.py), or by the
classmethod `fit(values, **options)`, which puts it into `.config`. A tower that needs files to be built again has `.files()` and
`from_files(folder, **config)`.
"""

HEADS = Registry("head", group="effnet_zoo.heads")
"""Features to joint space: `cls(in_features, embed_dim, **own)` maps `[B, in_features]` to `[B, embed_dim]`, not normalised.

With `reads = "map"` a head is given what the tower's `forward_features` makes: a map `[B, in_features, H, W]` of any size, or tokens
`[B, N, in_features]`. With `reads = "stages"` it is given the means of the last stages' maps, side by side.
"""

LOSSES = Registry("loss", group="effnet_zoo.losses")
"""Pure functions of two sides' embeddings: `f(a, b, *, logit_scale=None, logit_bias=None, ids=None, **own)` -> scalar.

`a`, `b`: `[B, D]` of unit length, row i of both is one pair; `logit_scale` multiplies (already exponentiated); `ids`: `[B]` integers, equal
where rows are the same thing. The function carries `init_logit_scale` (the logarithm, or None: it has no scale) and
`init_logit_bias(batch_size)` (or None: no bias); one that warms up carries `during(progress)`, the `own` arguments for a share of the
training that is done.
"""

DATASETS = Registry("dataset", group="effnet_zoo.datasets")
"""Named data: `f(**own)` -> `zoo.datasets.Data`, with a train and an eval split of rows. Nothing is read before the call."""
