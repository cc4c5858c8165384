"""Joint embedding: the rows of a batch are pulled together across their modalities and apart from each other.

With several micro-batches a step the loss still sees all of their rows at once: embed without a graph, take the loss of the whole, and run
the towers again for the gradients (GradCache, Gao et al., arXiv 2101.06983), under the same random numbers. Batch norm that learns its
statistics would compute something else the second time (and other statistics for each micro-batch), so it must be frozen then.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.utils import unwrap_model
from torch import nn

from ..backbones.weights import save_model
from ..datasets.data import Row, Split
from ..evaluate.retrieval import retrieve_both
from ..joint import JointEmbedding
from .config import TrainConfig
from .engine import Engine
from .loader import Batch
from .preprocess import Preprocess
from .task import Task

Prepare = Callable[[list[Any]], torch.Tensor]


class _PrepareRow:
    def __init__(self, modalities: Sequence[str], transform: Callable | None):
        self.modalities, self.transform = tuple(modalities), transform

    def __call__(self, row: Row) -> Row:
        kept = {name: row[name] for name in self.modalities if name in row}
        if "image" in kept and self.transform is not None:
            kept["image"] = self.transform(kept["image"])
        return kept


class _Collate:
    """Rows to a batch: each modality's values that are there, stacked, and under `rows` which rows they belong to."""

    def __init__(self, prepare: Mapping[str, Prepare]):
        self.prepare = dict(prepare)

    def __call__(self, rows: Sequence[Row]) -> Batch:
        batch: Batch = {key: torch.tensor([row[key] for row in rows]) for key in ("id", "index")}
        for name, prepare in self.prepare.items():
            there = [number for number, row in enumerate(rows) if name in row]
            if there:
                batch[name] = prepare([rows[number][name] for number in there])
                batch[f"rows.{name}"] = torch.tensor(there)
        return batch


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_random_state(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


class Align(Task):
    """A joint embedding and what it is trained for.

    Args:
        joint: the model.
        prepare: modality -> function from a list of raw values to the tensor of its tower (pictures come to it as tensors).
        preprocess: pictures to tensors; None where no modality is `image`.
        description: how the model was made, as JSON: it is written into the run.
        freeze_bn: batch norms keep their statistics; needed with several micro-batches a step.
    """

    kind = "align"
    default_batch_size = 64
    default_lr = 1e-3
    metric = "R@1"

    def __init__(
        self,
        joint: JointEmbedding,
        *,
        prepare: Mapping[str, Prepare],
        preprocess: Preprocess | None,
        description: Mapping[str, Any],
        freeze_bn: bool = False,
    ):
        super().__init__(joint, freeze_bn=freeze_bn)
        self.columns = joint.modalities
        self.preprocess, self.description = preprocess, dict(description)
        self._collate = _Collate({name: prepare[name] for name in joint.modalities})

    @property
    def joint(self) -> JointEmbedding:
        return unwrap_model(self.trainable_module)

    def prepare(self, training: bool) -> Callable[[Row], Row]:
        return _PrepareRow(self.columns, self.preprocess.transform(training) if self.preprocess else None)

    def collate(self, rows: Sequence[Row]) -> Batch:
        return self._collate(rows)

    def begin(self, config: TrainConfig, world: int) -> None:
        if world > 1:
            raise ValueError(f"a joint embedding trains in one process; started with {world}")
        moving = [name for name, part in self.joint.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if config.accumulate > 1 and moving and not self.freeze_bn:
            raise ValueError(
                f"accumulate={config.accumulate}: the batch norms of this model ({len(moving)}) would compute other statistics for each "
                "micro-batch, and the gradients would be wrong; freeze them (--freeze bn), or raise the batch size instead"
            )
        self.joint.restart_scale((config.batch_size or self.default_batch_size) * config.accumulate)

    def embed(self, batch: Batch, model: nn.Module | None = None) -> dict[str, torch.Tensor]:
        """Embeddings of what the batch holds, modality -> [rows that have it, D]."""
        return (model or self.trainable_module)({name: batch[name] for name in self.columns if name in batch})

    def _loss(self, embeddings: Mapping[str, torch.Tensor], rows: Mapping[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        """The sum of the pairs' losses, each over the rows that have both."""
        total = sum((each.sum() * 0 for each in embeddings.values()), torch.zeros((), device=ids.device))  # a graph, also without a pair
        for one, other in self.joint.pairs:
            if one in embeddings and other in embeddings:
                first, second = rows[one], rows[other]
                both = first[torch.isin(first, second)]
                if len(both):
                    pair = {name: embeddings[name][torch.searchsorted(where, both)] for name, where in ((one, first), (other, second))}
                    total = total + sum(self.joint.loss(pair, ids[both]).values())
        return total

    def forward(self, batch: Batch) -> dict[str, Any]:  # type: ignore[override]  # a joint embedding has no target beside its input
        embeddings = self.embed(batch)
        loss = self._loss(embeddings, {name: batch[f"rows.{name}"] for name in embeddings}, batch["id"])
        return {"loss": loss, "output": embeddings}

    def batch_loss(self, batch: Batch) -> torch.Tensor:
        return self(batch)["loss"]

    def training_step(self, batches: Sequence[Batch], engine: Engine) -> torch.Tensor:
        if len(batches) == 1:
            return super().training_step(batches, engine)
        states, parts = [], []
        for batch in batches:
            states.append(_random_state())
            with torch.no_grad(), engine.autocast():
                parts.append(self.embed(batch))
        firsts = [0]
        for batch in batches:
            firsts.append(firsts[-1] + len(batch["index"]))
        names = [name for name in self.columns if any(name in part for part in parts)]
        whole = {name: torch.cat([part[name] for part in parts if name in part]).requires_grad_() for name in names}
        places = {
            name: torch.cat([batch[f"rows.{name}"] + first for batch, first in zip(batches, firsts, strict=False) if name in batch])
            for name in names
        }
        loss = self._loss(whole, places, torch.cat([batch["id"] for batch in batches]))
        engine.backward(loss)
        taken = dict.fromkeys(names, 0)
        for batch, state in zip(batches, states, strict=True):
            _set_random_state(state)
            with engine.autocast():
                embeddings = self.embed(batch)
            gradients = []
            for name, each in embeddings.items():
                gradients.append(whole[name].grad[taken[name] : taken[name] + len(each)])  # type: ignore[index]  # backward has filled it
                taken[name] += len(each)
            torch.autograd.backward(list(embeddings.values()), gradients)
        return loss.detach()

    def after_step(self) -> None:
        self.joint.after_step()

    @torch.no_grad()
    def embed_all(self, batches: Iterable[Batch], model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Embeddings of all rows, and the index of the row that each belongs to, both by modality, on the CPU."""
        embeddings: dict[str, list[torch.Tensor]] = {}
        indices: dict[str, list[torch.Tensor]] = {}
        for batch in batches:
            for name, each in self.embed(batch, model).items():
                embeddings.setdefault(name, []).append(each.float().cpu())
                indices.setdefault(name, []).append(batch["index"][batch[f"rows.{name}"]].cpu())
        return {name: torch.cat(each) for name, each in embeddings.items()}, {name: torch.cat(each) for name, each in indices.items()}

    def evaluate(self, batches: Iterable[Batch], model: nn.Module, split: Split) -> dict[str, Any]:
        embeddings, indices = self.embed_all(batches, model)
        ids, pictures = torch.from_numpy(split.ids), torch.from_numpy(split.pictures)
        metrics: dict[str, Any] = {}
        recalls = []
        for one, other in self.joint.pairs:
            if one not in embeddings or other not in embeddings:
                continue
            rows = {name: indices[name] for name in (one, other)}
            both = retrieve_both(
                {name: embeddings[name] for name in rows},
                {name: ids[each] for name, each in rows.items()},
                same={name: pictures[each] for name, each in rows.items() if name == "image"},
            )
            metrics |= both
            recalls += [found["R@1"] for found in both.values()]
        if not recalls:
            raise ValueError("evaluation: no row has both modalities of a pair")
        return {"R@1": sum(recalls) / len(recalls), **metrics}

    def describe(self) -> dict[str, Any]:
        image = {"img_size": self.preprocess.input_size[-1], "augment": self.preprocess.augment} if self.preprocess else {}
        return {"task": self.kind, **self.description, **image, "freeze_bn": self.freeze_bn}

    def save(self, out: Path, model: nn.Module, run: dict[str, Any]) -> None:
        """The image tower as a timm network of its own, the rest in `joint.safetensors`, vocabularies in `tokenizer.<modality>.json`."""
        joint = unwrap_model(model)
        assert isinstance(joint, JointEmbedding) and self.preprocess is not None
        image = "towers.image."
        rest = {key: tensor.detach().cpu().contiguous() for key, tensor in joint.state_dict().items() if not key.startswith(image)}
        for name, tower in joint.towers.items():
            tokenizer = getattr(tower, "tokenizer", None)
            if tokenizer is not None:
                _replace(out / f"tokenizer.{name}.json", tokenizer.to_json().encode())
        _replace(out / "joint.safetensors", safetensors.torch.save(rest))
        save_model(joint.towers["image"], out, data_config=self.preprocess.data_config(), extra={"zoo": run})


def _replace(path: Path, content: bytes) -> None:
    writing = path.with_name(f".writing-{path.name}")
    writing.write_bytes(content)
    writing.replace(path)
