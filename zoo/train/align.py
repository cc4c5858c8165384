"""Joint embedding: the rows of a batch are pulled together across their modalities and apart from each other.

With several micro-batches a step the loss still sees all of their rows at once: embed without a graph, take the loss of the whole, and run
the towers again for the gradients (GradCache, Gao et al., arXiv 2101.06983), under the same random numbers. Batch norm that learns its
statistics would compute something else the second time (and other statistics for each micro-batch), so it must be frozen then.

With several processes every one of them takes the loss of all rows of all processes. The gradient that comes back through the gathering is
the sum over the processes, all of which computed the same; so the mean of the parameters' gradients is that of one process with all rows,
the scales' included. There is no DistributedDataParallel around the model: it would ask for a gradient of every tower in every step, and
a batch may lack a modality.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from timm.utils import unwrap_model
from torch import nn

from registry import nearest

from ..backbones.weights import save_model
from ..datasets.data import Row, Split
from ..evaluate.geometry import geometry, warning
from ..evaluate.retrieval import retrieve_both
from ..files import write_whole
from ..joint import JointEmbedding
from ..progress import console, tracked
from .config import TrainConfig
from .engine import Engine
from .loader import Batch
from .modalities import Collate, Prepare, PrepareRow, raw_value
from .preprocess import Preprocess
from .shard import shard
from .sync_bn import sync_batch_norms
from .task import Task

_CHUNK = 256  # rows that a frozen tower reads at a time
_SETTLED = 0.25  # of a training: before, embeddings that lie close together are nothing to worry about


def _said(value: Any) -> str:
    """All of a value as text: that of a long array would leave out its middle."""
    return str(value.tolist() if isinstance(value, np.ndarray) else value)


def network_folder(run: Path, name: str) -> Path:
    """Where a run has the network of a modality that is pictures."""
    return run if name == "image" else run / f"tower.{name}"


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_random_state(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


@contextmanager
def _learned_statistics(tower: nn.Module) -> Iterator[None]:
    """Inside, batch norms read the statistics that they have learned and learn nothing."""
    moving = [part for part in tower.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training]
    for part in moving:
        part.eval()
    try:
        yield
    finally:
        for part in moving:
            part.train()


class Align(Task):
    """A joint embedding and what it is trained for.

    Args:
        joint: the model.
        prepare: modality -> function from a list of raw values to the tensor of its tower (pictures come to it as tensors).
        preprocess: modality -> pictures to tensors, for the modalities that are pictures.
        description: how the model was made, as JSON: it is written into the run.
        tables: modality -> the columns of a row that make up its value, for modalities that are no column themselves.
        freeze_bn: batch norms keep their statistics; needed with several micro-batches a step.
    """

    kind = "align"
    default_batch_size = 64
    default_lr = 1e-3
    metric = "R@1"
    holes = True

    def __init__(
        self,
        joint: JointEmbedding,
        *,
        prepare: Mapping[str, Prepare],
        preprocess: Mapping[str, Preprocess],
        description: Mapping[str, Any],
        tables: Mapping[str, Sequence[str]] | None = None,
        freeze_bn: bool = False,
    ):
        super().__init__(joint, freeze_bn=freeze_bn)
        self.columns = joint.modalities
        self.tables = {name: tuple(columns) for name, columns in (tables or {}).items()}
        self.preprocess, self.description = dict(preprocess), dict(description)
        self._collate = Collate({name: prepare[name] for name in joint.modalities})
        self._warned: set[tuple[str, str]] = set()
        self._known: dict[str, torch.Tensor] = {}  # features of the training rows by frozen towers
        self._synced: Engine | None = None  # whose processes share the statistics of batch norms
        self._sharded: frozenset[str] = frozenset()

    @property
    def joint(self) -> JointEmbedding:
        return unwrap_model(self.trainable_module)

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs: Any) -> "Align":
        return self  # see above: a step averages the gradients itself

    def sync_batch_norms(self, engine: Engine) -> None:
        for tower in self.joint.towers.values():
            sync_batch_norms(tower, engine.device)
        self._synced = engine

    def shard(self, modalities: Sequence[str], engine: Engine) -> None:
        for name in modalities:
            if name not in self.columns:
                raise ValueError(f"shard: there is no tower for {name!r}; {nearest(name, list(self.columns))}")
            if getattr(self.joint.towers[name], "reads", None) != "text":
                raise ValueError(
                    f"shard: the tower of {name} does not read texts; text towers are sharded, others are kept whole in each process"
                )
        if engine.world == 1:
            return
        for model in (self.joint, *([unwrap_model(self.trainable_module_ema)] if self.has_ema() else [])):
            for name in modalities:
                shard(model.towers[name], engine.device.type)
        self._sharded, self.in_step = frozenset(modalities), bool(modalities)
        self._collate = Collate(self._collate.prepare, dict.fromkeys(modalities, ""))  # its weights only come where all processes run it

    def check(self, split: Split, which: str) -> None:
        if which == "train" and len(split) < 2:
            raise ValueError("one training row has nothing to be told apart from; expected at least 2")
        missing = [name for name in self.columns if not {name, *self.tables.get(name, ())} & set(split.columns)]
        possible = [pair for pair in self.joint.pairs if not set(pair) & set(missing)]
        if missing and (which == "train" or not possible):
            raise ValueError(f"the {which} rows have {', '.join(split.columns)}; this task also needs {', '.join(missing)}")

    def of_pictures(self) -> Preprocess:
        if "image" not in self.preprocess:
            raise ValueError(f"the run embeds {', '.join(self.columns)}; there is no image tower")
        return self.preprocess["image"]

    def networks(self) -> Sequence[nn.Module]:
        return list(self.joint.towers.values())

    def prepare(self, training: bool) -> Callable[[Row], Row]:
        return PrepareRow(self.columns, self.tables, {name: each.transform(training) for name, each in self.preprocess.items()})

    def collate(self, rows: Sequence[Row]) -> Batch:
        return self._collate(rows)

    def look(self, train: Split, engine: Engine) -> None:
        """Warn of what can not be learned from, and let the frozen towers read their rows once: what they say never changes."""
        self._known = {}
        still = [name for name in self.columns if name in self.joint.frozen and name not in self.preprocess]
        if train.cells is None and not still:
            return  # rows can not be told without opening their pictures: that is an epoch's work
        values: dict[str, list[Any]] = {name: [] for name in self.columns}
        for index, row in enumerate(train.without_pictures()):
            for name, its in values.items():
                its.append(self._told(train, index, row, name))
        for name, its in values.items():
            there = [index for index, value in enumerate(its) if value is not None]
            if len(there) > 1 and len({_said(its[index]) for index in there}) == 1:
                only = str(its[there[0]])[:60]
                told = f"warning: all {len(there)} training rows have the same {name} ({only}): nothing there tells them apart"
                console.print(told, soft_wrap=True, highlight=False)
            if name in still and there:
                self._known[name] = self._read_once(name, its, there, engine)
        for one, other in self.joint.pairs:
            if not any(a is not None and b is not None for a, b in zip(values[one], values[other], strict=True)):
                raise ValueError(f"the pair {one}-{other} has nothing to learn from: no training row has both")

    def _told(self, train: Split, index: int, row: Row, name: str) -> Any | None:
        """What can be told of a modality in a row without opening its picture; None where there is nothing."""
        if name == "image" and name in self.preprocess:
            return index if train.paths is None else train.paths(index) or None
        return raw_value(row, name, self.tables.get(name, ()))

    @torch.no_grad()
    def _read_once(self, name: str, values: list[Any], there: list[int], engine: Engine) -> torch.Tensor:
        """[rows, features], in the order of the rows whatever the batches will be, so that a resumed run knows the same."""
        parts = [there[first : first + _CHUNK] for first in range(0, len(there), _CHUNK)]
        self.joint.towers[name].eval()
        with engine.autocast():
            read = [
                self.joint.features(name, self._collate.prepare[name]([values[index] for index in part]).to(engine.device))
                for part in tracked(parts, len(parts), f"read {name}")
            ]
        features = torch.cat(read).float()
        known = features.new_zeros(len(values), *features.shape[1:])
        known[torch.tensor(there, device=known.device)] = features
        return known

    def begin(self, config: TrainConfig, world: int) -> None:
        moving = [
            name
            for name, part in self.joint.named_modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm)
            if not any(name.startswith(f"towers.{frozen}.") for frozen in self.joint.frozen)
        ]
        if config.accumulate > 1 and moving and not self.freeze_bn:
            raise ValueError(
                f"accumulate={config.accumulate}: the batch norms of this model ({len(moving)}) would compute other statistics for each "
                "micro-batch, and the gradients would be wrong; freeze them (--freeze bn), or raise the batch size instead"
            )
        rows = (config.batch_size or self.default_batch_size) * config.accumulate * world
        if rows < 2:
            raise ValueError("batch_size: a batch of one row has nothing to be told apart from; expected at least 2")
        own = [name for name in self.preprocess if not hasattr(self.joint.towers[name], "pretrained_cfg")]
        if config.out and own:
            raise ValueError(
                f"{own[0]}: a run keeps networks as timm has them, and this one is not from timm.create_model; train without out"
            )
        self.joint.restart_scale(rows)

    def embed(self, batch: Batch, model: nn.Module | None = None) -> dict[str, torch.Tensor]:
        """Embeddings of what the batch holds, modality -> [rows that have it, D]."""
        there = {name: batch[name] for name in self.columns if name in batch}
        if model is not None or not self.training:
            found = (model or self.joint)(there) if there else {}
        else:
            alone = self._alone(batch)
            found = {name: self._embed_to_learn(name, x, batch["index"][batch[f"rows.{name}"]], name in alone) for name, x in there.items()}
        return {name: each[: len(batch[f"rows.{name}"])] for name, each in found.items()}  # less what stood in for a row

    def _alone(self, batch: Batch) -> set[str]:
        """Modalities whose rows have no statistics: a single row, or, of statistics over all processes, where one of them has no row."""
        if self._synced is None:
            return {name for name in self.columns if name in batch and len(batch[name]) == 1}
        fewest = self._synced.fewest([len(batch[f"rows.{name}"]) if name in batch else 0 for name in self.columns])
        return {name for name, number in zip(self.columns, fewest, strict=True) if not number}

    def _embed_to_learn(self, name: str, x: torch.Tensor, rows: torch.Tensor, alone: bool) -> torch.Tensor:
        if name in self._known:
            return self.joint.project(name, self._known[name][rows])
        # where the others are missing, one row is left: it has no statistics, and torch refuses it where the map is one pixel
        with _learned_statistics(self.joint.towers[name]) if alone else nullcontext():
            return self.joint({name: x})[name]

    def _loss(self, embeddings: Mapping[str, torch.Tensor], rows: Mapping[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        """The sum of the pairs' losses, each over the rows that have both."""
        reached = [each for each in embeddings.values() if each.requires_grad]
        learned = [parameter for parameter in self.joint.parameters() if parameter.requires_grad][:1]
        total = sum((each.sum() * 0 for each in reached or learned), torch.zeros((), device=ids.device))  # a graph, also without a pair
        for one, other in self.joint.pairs:
            if one in embeddings and other in embeddings:
                first, second = rows[one], rows[other]
                both = first[torch.isin(first, second)]
                if len(both):
                    pair = {name: embeddings[name][torch.searchsorted(where, both)] for name, where in ((one, first), (other, second))}
                    total = total + sum(self.joint.loss(pair, ids[both], progress=self.progress).values())
        return total

    def _everybodys(
        self, embeddings: Mapping[str, torch.Tensor], rows: Mapping[str, torch.Tensor], ids: torch.Tensor, engine: Engine
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
        """The same three of all processes together. All modalities travel in one tensor, so that no process waits for another's."""
        if engine.world == 1:
            return dict(embeddings), dict(rows), ids
        size = engine.largest(len(ids))
        device = ids.device
        dtype = torch.promote_types(next(self.joint.parameters()).dtype, torch.float32)  # of embeddings; also of a process that has none
        table = torch.zeros(len(self.columns), size, self.joint.embed_dim, device=device, dtype=dtype, requires_grad=True)
        held = torch.zeros(len(self.columns) + 1, size, dtype=torch.bool, device=device)
        held[-1, : len(ids)] = True
        for number, name in enumerate(self.columns):
            if name in embeddings:
                where = (torch.tensor(number, device=device), rows[name])
                table = table.index_put(where, embeddings[name].to(dtype))
                held[where] = True
        every = engine.gather(table).transpose(0, 1).flatten(1, 2)  # [modalities, world * size, D]
        with torch.no_grad():
            has = engine.gather(held.to(torch.uint8)).transpose(0, 1).flatten(1).bool()
            all_ids = engine.gather(nn.functional.pad(ids, (0, size - len(ids)))).flatten()
        there = {name: has[number].nonzero().squeeze(1) for number, name in enumerate(self.columns) if has[number].any()}
        return {name: every[self.columns.index(name)][where] for name, where in there.items()}, there, all_ids

    def forward(self, batch: Batch) -> dict[str, Any]:  # type: ignore[override]  # a joint embedding has no target beside its input
        embeddings = self.embed(batch)
        loss = self._loss(embeddings, {name: batch[f"rows.{name}"] for name in embeddings}, batch["id"])
        return {"loss": loss, "output": embeddings}

    def batch_loss(self, batch: Batch) -> torch.Tensor:
        return self(batch)["loss"]

    def training_step(self, batches: Sequence[Batch], engine: Engine) -> torch.Tensor:
        """Gradients of the loss of all rows: of all micro-batches and all processes."""
        engine.share_buffers(self.joint)
        replay = len(batches) > 1
        states, parts = [], []
        for batch in batches:
            states.append(_random_state())
            with torch.no_grad() if replay else nullcontext(), engine.autocast():
                parts.append(self.embed(batch))
        firsts = [0]
        for batch in batches:
            firsts.append(firsts[-1] + len(batch["id"]))
        names = [name for name in self.columns if any(name in part for part in parts)]
        places = {
            name: torch.cat(
                [batch[f"rows.{name}"] + first for batch, part, first in zip(batches, parts, firsts, strict=False) if name in part]
            )
            for name in names
        }
        whole = {name: torch.cat([part[name] for part in parts if name in part]) for name in names}
        if replay:
            whole = {name: each.requires_grad_() for name, each in whole.items()}
        every, there, ids = self._everybodys(whole, places, torch.cat([batch["id"] for batch in batches]), engine)
        loss = self._loss(every, there, ids)
        engine.backward(loss)
        if replay:
            self._replay(batches, states, {name: each.grad for name, each in whole.items()}, engine)
        engine.average_gradients(self.joint)
        for name in self._sharded - there.keys():
            for part in (self.joint.towers[name], self.joint.heads[name]):
                part.zero_grad()  # of what stood in for a row: zeros, where one process alone has none
        return loss.detach()

    def _replay(
        self, batches: Sequence[Batch], states: Sequence[Any], gradients: Mapping[str, torch.Tensor | None], engine: Engine
    ) -> None:
        """Run the towers again, as they ran before, and hand them the gradients of their embeddings."""
        taken = dict.fromkeys(gradients, 0)
        for batch, state in zip(batches, states, strict=True):
            _set_random_state(state)
            with engine.autocast():
                embeddings = self.embed(batch)
            outputs: list[torch.Tensor] = []
            theirs: list[torch.Tensor] = []
            for name, each in embeddings.items():
                gradient = gradients[name]
                assert gradient is not None  # every embedding is in the loss, if only times zero
                if each.requires_grad:  # not a frozen tower's behind a head that learns nothing
                    outputs.append(each)
                    theirs.append(gradient[taken[name] : taken[name] + len(each)])
                taken[name] += len(each)
            if outputs:
                torch.autograd.backward(outputs, theirs)

    def after_step(self) -> None:
        self.joint.after_step()

    @torch.no_grad()
    def embed_all(self, batches: Iterable[Batch], model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Embeddings of all rows, and the index of the row that each belongs to, both by modality, on the CPU."""
        return self._joined(self.outputs(batch, model) for batch in batches)

    def outputs(self, batch: Batch, model: nn.Module) -> dict[str, torch.Tensor]:
        """The embeddings of each modality, and under `index` the row that each belongs to."""
        found: dict[str, torch.Tensor] = {}
        for name, each in self.embed(batch, model).items():
            found |= {name: each.float().cpu(), f"index.{name}": batch["index"][batch[f"rows.{name}"]].cpu()}
        return found

    def _joined(self, outputs: Iterable[Mapping[str, torch.Tensor]]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        parts: dict[str, list[torch.Tensor]] = {}
        for each in outputs:
            for key, tensor in each.items():
                parts.setdefault(key, []).append(tensor.cpu())
        whole = {key: torch.cat(each) for key, each in parts.items()}
        there = [name for name in self.columns if name in whole and len(whole[name])]
        return {name: whole[name] for name in there}, {name: whole[f"index.{name}"] for name in there}

    def measure(self, outputs: Iterable[dict[str, torch.Tensor]], split: Split) -> dict[str, Any]:
        embeddings, indices = self._joined(outputs)
        ids, pictures = torch.from_numpy(split.ids), torch.from_numpy(split.pictures)
        metrics: dict[str, Any] = {}
        shapes: dict[str, dict[str, Any]] = {}
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
            shapes[f"{one}-{other}"] = self._shape(one, other, embeddings, rows, ids)
        if not recalls:
            raise ValueError("evaluation: no row has both modalities of a pair")
        return {"R@1": sum(recalls) / len(recalls), **metrics, "geometry": shapes}

    def _shape(self, one: str, other: str, embeddings: Mapping, rows: Mapping, ids: torch.Tensor) -> dict[str, Any]:
        """How the rows that have both lie in the joint space; what has collapsed after the first quarter of a training is warned of."""
        both = rows[one][torch.isin(rows[one], rows[other])]
        if not len(both):
            return {}
        first, second = (embeddings[name][torch.searchsorted(rows[name], both)] for name in (one, other))
        measured = geometry(first, second, ids[both], names=(one, other))
        if self.progress >= _SETTLED and (told := warning(measured)) and (one, other) not in self._warned:
            self._warned.add((one, other))
            console.print(f"warning: {one}-{other}: {told}", soft_wrap=True, highlight=False)
        return measured

    def describe(self) -> dict[str, Any]:
        pictures = {name: json.loads(json.dumps(asdict(preprocess))) for name, preprocess in self.preprocess.items()}
        return {"task": self.kind, **self.description, "preprocess": pictures, "freeze_bn": self.freeze_bn}

    def save(self, out: Path, model: nn.Module, run: dict[str, Any]) -> None:
        """The image tower as a timm network of its own, those of other pictures in `tower.<modality>/`, the rest in `joint.safetensors`,
        vocabularies in `tokenizer.<modality>.json`."""
        joint = unwrap_model(model)
        assert isinstance(joint, JointEmbedding)
        networks = tuple(f"towers.{name}." for name in self.preprocess)
        rest = {key: tensor.detach().cpu().contiguous() for key, tensor in joint.state_dict().items() if not key.startswith(networks)}
        for name, tower in joint.towers.items():
            files: dict[str, bytes] = tower.files() if hasattr(tower, "files") else {}  # type: ignore[operator]
            for file, content in files.items():
                (out / f"tower.{name}").mkdir(exist_ok=True)
                write_whole(out / f"tower.{name}" / file, content)
            tokenizer = getattr(tower, "tokenizer", None)
            if tokenizer is not None and not files:
                write_whole(out / f"tokenizer.{name}.json", tokenizer.to_json().encode())
        write_whole(out / "joint.safetensors", safetensors.torch.save(rest))
        for name, preprocess in self.preprocess.items():
            extra = {"zoo": run} if name == "image" else None
            save_model(joint.towers[name], network_folder(out, name), data_config=preprocess.data_config(), extra=extra)
        if "image" not in self.preprocess:
            write_whole(out / "config.json", json.dumps({"zoo": run}, indent=2).encode())
