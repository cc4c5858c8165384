"""Towers of several modalities that meet in one space: tower, head, unit length, and a loss a pair.

    e_m = normalise(head_m(tower_m(x_m)));   L_(m,n) = loss(e_m, e_n, exp(s), β)

Towers are keyed by modality and losses by pair, so that a third modality is one more key and a batch may lack any of them. A tower is what
maps its tensor to `[B, num_features]`: a timm model without its classifier for pictures, an entry of `registry.TOWERS` for the rest.

The logit scale s is a logarithm, is learned, and stays in [0, ln 100]: CLIP, Radford et al., arXiv 2103.00020.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from registry import UnknownName, nearest

_MAX_LOGIT_SCALE = math.log(100)


@torch.no_grad()
def _width(tower: nn.Module, head: nn.Module) -> int:
    """The width of what the head makes; asked of a copy, since a forward pass may touch the statistics and the random state."""
    probe = copy.deepcopy(head).eval()
    like = next(probe.parameters(), torch.empty(0))
    features = torch.zeros(1, tower.num_features, device=like.device, dtype=like.dtype)  # type: ignore[call-overload]
    return probe(features).shape[-1]


class JointEmbedding(nn.Module):
    """`joint({"image": pixels, "text": ids})` -> `{"image": [B, D], "text": [B, D]}`, float32, of unit length; any modality may be absent.

    Args:
        towers: modality to module with `num_features`, from the modality's tensor to `[B, num_features]`; the first one is the anchor.
        heads: the same modalities, to modules from `[B, num_features]` to `[B, D]`, the same D for all.
        loss: an entry of `registry.LOSSES`, or a function like it.
        pairs: modalities to bring together; by default the first one with each other one.
        batch_size: rows that the loss will see at a time; the start of the bias depends on it.

    Raises:
        ValueError: towers and heads are not of the same two or more modalities, heads differ in width, a modality cannot be called so,
            or a pair is wrong.
    """

    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None

    def __init__(
        self,
        towers: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
        *,
        loss: Callable[..., Tensor],
        pairs: Sequence[tuple[str, str]] | None = None,
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
        widths = {name: _width(towers[name], heads[name]) for name in towers}
        if len(set(widths.values())) > 1:
            raise ValueError(f"heads differ in width: {widths}")
        self.embed_dim: int = widths[self.modalities[0]]
        self.pairs = self._checked([(self.modalities[0], other) for other in self.modalities[1:]] if pairs is None else pairs)
        self.loss_function = loss
        self.towers = nn.ModuleDict(towers)
        self.heads = nn.ModuleDict({name: heads[name] for name in towers})
        self.logit_scale = nn.Parameter(torch.empty(1))  # not a scalar: FSDP2 refuses those
        self.register_parameter("logit_bias", None if loss.init_logit_bias is None else nn.Parameter(torch.empty(1)))  # type: ignore[attr-defined]
        self.restart_scale(batch_size)

    @torch.no_grad()
    def restart_scale(self, batch_size: int) -> None:
        """Put the logit scale and the bias to where the loss wants them for this batch size."""
        self.logit_scale.fill_(self.loss_function.init_logit_scale)  # type: ignore[attr-defined]
        if self.logit_bias is not None:
            self.logit_bias.fill_(self.loss_function.init_logit_bias(batch_size))  # type: ignore[attr-defined]

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the logit scale in range; call it after each optimizer step."""
        self.logit_scale.clamp_(0, _MAX_LOGIT_SCALE)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must leave alone: the scale, the bias, and what any part of the towers and heads names."""
        own = {"logit_scale"} if self.logit_bias is None else {"logit_scale", "logit_bias"}
        parts = [(prefix, part) for prefix, part in self.named_modules() if part is not self]
        named = ((prefix, name) for prefix, part in parts for name in getattr(part, "no_weight_decay", tuple)())
        return own | {f"{prefix}.{name}" for prefix, name in named}

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
        return {name: self._embed(name, batch[name]) for name in self.modalities if name in batch}

    def loss(self, embeddings: Mapping[str, Tensor], ids: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of each pair whose two modalities are there, keyed "image-text".

        Args:
            embeddings: what `forward` gave; row i of all is one thing.
            ids: `[B]` integers, equal where rows are the same thing; by default every row is its own.
        """
        scale, bias = self.logit_scale.exp(), self.logit_bias
        return {
            f"{one}-{other}": self.loss_function(embeddings[one], embeddings[other], logit_scale=scale, logit_bias=bias, ids=ids)
            for one, other in self.pairs
            if one in embeddings and other in embeddings
        }

    def _embed(self, name: str, x: Tensor) -> Tensor:
        x = self.heads[name](self.towers[name](x))
        return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)

    def _checked(self, pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        seen: set[frozenset[str]] = set()
        for pair in pairs:
            if len(pair) != 2 or pair[0] == pair[1]:
                raise ValueError(f"pair {pair!r}: expected two different modalities")
            for name in pair:
                if name not in self.modalities:
                    raise ValueError(f"pair {pair!r}: no tower for {name!r}; {nearest(name, list(self.modalities))}")
            if frozenset(pair) in seen:
                raise ValueError(f"pair {pair!r} is given twice")
            seen.add(frozenset(pair))
        if not seen:
            raise ValueError("no pairs: a joint embedding without a pair has nothing to learn")
        return tuple((one, other) for one, other in pairs)
