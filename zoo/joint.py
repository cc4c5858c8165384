"""Towers of several modalities that meet in one space: tower, head, unit length, and a loss a pair.

    e_m = normalise(head_m(tower_m(x_m)));   L_(m,n) = w_(m,n) loss_(m,n)(e_m, e_n, exp(s), β)

Towers are keyed by modality and losses by pair, so that a third modality is one more key and a batch may lack any of them. A tower is what
maps its tensor to `[B, num_features]`: a timm model without its classifier for pictures, an entry of `registry.TOWERS` for the rest. A head
that reads maps (`reads = "map"`) is given the tower's `forward_features` instead, one that reads stages (`reads = "stages"`) the means of
the last stages' maps, of timm's `forward_intermediates`.

Every pair has its own scale and bias: what is far apart for pictures and texts is not for pictures and tables. The logit scale s is a
logarithm, is learned, and stays in [0, ln 100]: CLIP, Radford et al., arXiv 2103.00020.
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from registry import UnknownName, nearest

_MAX_LOGIT_SCALE = math.log(100)
_STAGES = 3  # whose maps are read: an 8th, a 16th and a 32nd of the picture's side in an EfficientNet

Loss = Callable[..., Tensor]


def features_of(tower: nn.Module) -> int:
    """The width of what a tower gives when it is called.

    Raises:
        ValueError: it does not say.
    """
    if not hasattr(tower, "num_features"):
        raise ValueError(
            f"{type(tower).__name__} does not say how wide its features are: expected num_features, as timm's networks have it"
        )
    # a timm model with a layer between its pooling and its classifier is wider there than its map
    return int(getattr(tower, "head_hidden_size", None) or tower.num_features)  # type: ignore[arg-type]


def reads(head: nn.Module | type[nn.Module]) -> str:
    """What a head is given: "vector", "map" or "stages"."""
    return getattr(head, "reads", "vector")


NAMES = {"vector": "vectors", "map": "feature maps", "stages": "the means of stages"}
_GIVEN_BY = {"vector": "forward", "map": "forward_features", "stages": "forward_intermediates"}


def can_give(tower: nn.Module, what: str) -> bool:
    return callable(getattr(tower, _GIVEN_BY[what], None))


def width_for(tower: nn.Module, what: str) -> int:
    """The width of what a tower gives to a head that reads this.

    Raises:
        ValueError: it does not say.
    """
    if what == "stages":
        return sum(each["num_chs"] for each in list(tower.feature_info)[-_STAGES:])  # type: ignore[arg-type]  # timm's
    return int(tower.num_features) if what == "map" else features_of(tower)  # type: ignore[arg-type]


def check_pairs(pairs: Sequence[tuple[str, str]], modalities: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The pairs.

    Raises:
        ValueError: one is not of two different modalities, or is there twice.
    """
    seen: set[frozenset[str]] = set()
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(f"pair {pair!r}: expected two different modalities, such as {tuple(modalities[:2])}")
        for name in pair:
            if name not in modalities:
                raise ValueError(f"pair {pair!r}: no tower for {name!r}; {nearest(name, list(modalities))}")
        if frozenset(pair) in seen:
            raise ValueError(f"pair {pair!r} is given twice")
        seen.add(frozenset(pair))
    return tuple((one, other) for one, other in pairs)


@torch.no_grad()
def _width(tower: nn.Module, head: nn.Module) -> int:
    """The width of what the head makes; asked of a copy, since a forward pass may touch the statistics and the random state."""
    probe = copy.deepcopy(head).eval()
    like = next(probe.parameters(), torch.empty(0))
    what = reads(head)
    shape = (1, width_for(tower, what), *((2, 2) if what == "map" else ()))
    return probe(torch.zeros(shape, device=like.device, dtype=like.dtype)).shape[-1]


class JointEmbedding(nn.Module):
    """`joint({"image": pixels, "text": ids})` -> `{"image": [B, D], "text": [B, D]}`, float32, of unit length; any modality may be absent.

    Args:
        towers: modality to module with `num_features`, from the modality's tensor to `[B, num_features]`; the first one is the anchor.
        heads: the same modalities, to modules from `[B, num_features]`, or from a feature map, to `[B, D]`, the same D for all.
        loss: an entry of `registry.LOSSES`, or a function like it; or one a pair, as {"image-text": clip, "image-table": siglip}.
        pairs: modalities to bring together; by default the first one with each other one.
        weights: factors of the pairs' losses, as {"image-table": 0.5}; 1 where nothing is said.
        frozen: modalities whose tower stays as it is, in eval mode and without gradients; their heads learn.
        batch_size: rows that the loss will see at a time; the start of the bias depends on it.

    Raises:
        ValueError: towers and heads are not of the same two or more modalities, heads differ in width, a modality cannot be called so,
            a head reads maps and its tower has none, or a pair, a weight or a frozen modality is wrong.
    """

    logit_scale: nn.Parameter | None
    logit_bias: nn.Parameter | None

    def __init__(
        self,
        towers: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
        *,
        loss: Loss | Mapping[str, Loss],
        pairs: Sequence[tuple[str, str]] | None = None,
        weights: Mapping[str, float] | None = None,
        frozen: Collection[str] = (),
        batch_size: int = 256,
    ):
        super().__init__()
        self.modalities = tuple(towers)
        if len(towers) < 2:
            raise ValueError(f"a joint embedding joins two modalities or more, got towers for {list(towers)}")
        if set(heads) != set(towers):
            raise ValueError(f"one head a tower: towers are for {sorted(towers)}, heads for {sorted(heads)}")
        for name in towers:
            if not name.isidentifier():
                raise ValueError(f"modality {name!r}: expected letters, digits and underscores, no digit first")
            if name in dir(nn.ModuleDict):
                raise ValueError(f"modality {name!r}: the name is taken by torch.nn.ModuleDict")
            if not can_give(towers[name], what := reads(heads[name])):
                raise ValueError(
                    f"the head of {name} ({type(heads[name]).__name__}) reads {NAMES[what]}, and its tower has none; take linear"
                )
        widths = {name: _width(towers[name], heads[name]) for name in towers}
        if len(set(widths.values())) > 1:
            raise ValueError(f"heads differ in width: {widths}")
        self.embed_dim: int = widths[self.modalities[0]]
        self.pairs = check_pairs(
            [(self.modalities[0], other) for other in self.modalities[1:]] if pairs is None else pairs, self.modalities
        )
        if not self.pairs:
            raise ValueError("no pairs: a joint embedding without a pair has nothing to learn")
        names = [f"{one}-{other}" for one, other in self.pairs]
        self.losses: dict[str, Loss] = dict(loss) if isinstance(loss, Mapping) else dict.fromkeys(names, loss)
        self.weights: dict[str, float] = dict.fromkeys(names, 1.0) | dict(weights or {})
        for what, keys in (("loss", self.losses.keys()), ("weight", self.weights.keys())):
            for name in sorted(keys - set(names)):
                raise ValueError(f"a {what} for {name}, which is no pair; {nearest(name, names)}")
        if left := [name for name in names if name not in self.losses]:
            raise ValueError(f"no loss for the pair {left[0]}")
        for name, each in self.losses.items():
            if not (hasattr(each, "init_logit_scale") and hasattr(each, "init_logit_bias")):
                raise ValueError(
                    f"loss of {name}: expected a function with init_logit_scale and init_logit_bias (None: it has none), got {each!r}"
                )
        numbers = [weight for weight in self.weights.values() if isinstance(weight, int | float) and 0 <= weight < math.inf]
        if len(numbers) < len(self.weights) or not any(numbers):
            raise ValueError(f"weights: expected numbers of at least 0, not all of them 0, got {self.weights}")
        if isinstance(frozen, str):
            raise ValueError(f"frozen: expected a list of modalities, got {frozen!r}")
        if unknown := sorted(set(frozen) - set(towers)):
            raise ValueError(f"frozen: there is no tower for {unknown[0]!r}; {nearest(unknown[0], list(towers))}")
        self.frozen = frozenset(frozen)
        self.towers = nn.ModuleDict(towers)
        self.heads = nn.ModuleDict({name: heads[name] for name in towers})
        for name in self.frozen:
            self.towers[name].requires_grad_(False)
        # [pairs], not scalars: FSDP2 refuses those
        self.register_parameter("logit_scale", self._one_a_pair("init_logit_scale"))
        self.register_parameter("logit_bias", self._one_a_pair("init_logit_bias"))
        self.restart_scale(batch_size)

    def _one_a_pair(self, start: str) -> nn.Parameter | None:
        wanted = any(getattr(loss, start) is not None for loss in self.losses.values())
        return nn.Parameter(torch.zeros(len(self.pairs))) if wanted else None

    @torch.no_grad()
    def restart_scale(self, batch_size: int) -> None:
        """Put the logit scales and the biases to where the losses want them for this batch size."""
        for number, loss in enumerate(self.losses[f"{one}-{other}"] for one, other in self.pairs):
            scale, bias = loss.init_logit_scale, loss.init_logit_bias  # type: ignore[attr-defined]  # the contract of a loss
            if self.logit_scale is not None and scale is not None:
                self.logit_scale[number] = scale
            if self.logit_bias is not None and bias is not None:
                self.logit_bias[number] = bias(batch_size)

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the logit scales in range; call it after each optimizer step."""
        if self.logit_scale is not None:
            self.logit_scale.clamp_(0, _MAX_LOGIT_SCALE)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must leave alone: scales, biases, and what any part of the towers and heads names."""
        own = {name for name in ("logit_scale", "logit_bias") if getattr(self, name) is not None}
        parts = [(prefix, part) for prefix, part in self.named_modules() if part is not self]
        named = ((prefix, name) for prefix, part in parts for name in getattr(part, "no_weight_decay", tuple)())
        return own | {f"{prefix}.{name}" for prefix, name in named}

    def train(self, mode: bool = True) -> "JointEmbedding":
        super().train(mode)
        for name in self.frozen:
            self.towers[name].eval()
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The embeddings of the modalities in the batch.

        Raises:
            KeyError: the batch holds a modality that has no tower.
            ValueError: the batch is empty.
        """
        for name in batch:
            if name not in self.modalities:
                known = ", ".join(self.modalities)
                raise UnknownName(f"unknown modality {name!r} (this model embeds {known}); {nearest(name, list(self.modalities))}")
        if not batch:
            raise ValueError(f"the batch holds no modality; expected any of: {', '.join(self.modalities)}")
        return {name: self.project(name, self.features(name, batch[name])) for name in self.modalities if name in batch}

    def features(self, name: str, x: Tensor) -> Tensor:
        """What the tower of a modality gives to its head: `[B, num_features]`, a map, or the means of its stages' maps."""
        tower: Any = self.towers[name]
        what = reads(self.heads[name])
        with torch.set_grad_enabled(torch.is_grad_enabled() and name not in self.frozen):
            if what == "stages":
                maps = tower.forward_intermediates(x, indices=_STAGES, intermediates_only=True)
                return torch.cat([each.mean((2, 3)) for each in maps], dim=1)
            return tower.forward_features(x) if what == "map" else tower(x)

    def project(self, name: str, features: Tensor) -> Tensor:
        """Features of a modality into the joint space: `[B, D]` of unit length."""
        x = self.heads[name](features)
        return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)

    def loss(self, embeddings: Mapping[str, Tensor], ids: Tensor | None = None, *, progress: float = 1.0) -> dict[str, Tensor]:
        """The loss of each pair whose two modalities are there, times its weight, keyed "image-text"; their sum is what is trained for.

        Args:
            embeddings: what `forward` gave; row i of all is one thing.
            ids: `[B]` integers, equal where rows are the same thing; by default every row is its own.
            progress: the share of the training that is done, for losses that warm up.
        """
        found = {}
        for number, (one, other) in enumerate(self.pairs):
            if one in embeddings and other in embeddings:
                name = f"{one}-{other}"
                loss, given = self.losses[name], self._given(number, progress)
                found[name] = self.weights[name] * loss(embeddings[one], embeddings[other], ids=ids, **given)
        return found

    def _given(self, number: int, progress: float) -> dict[str, Any]:
        one, other = self.pairs[number]
        loss: Any = self.losses[f"{one}-{other}"]
        scale = self.logit_scale[number : number + 1].exp() if self.logit_scale is not None and loss.init_logit_scale is not None else None
        bias = self.logit_bias[number : number + 1] if self.logit_bias is not None and loss.init_logit_bias is not None else None
        during = getattr(loss, "during", None)  # only losses that warm up have it
        return {"logit_scale": scale, "logit_bias": bias, **(during(progress) if during else {})}
