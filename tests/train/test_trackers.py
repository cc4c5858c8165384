"""Curves elsewhere: through Accelerate's trackers, at the right steps, also of a run that goes on."""

import signal

import pytest
from accelerate.tracking import GeneralTracker

import zoo
from zoo.train import Stopped
from zoo.train import engine as engines
from zoo.train.folder import Folder


class Notebook(GeneralTracker):
    """Writes down what it is told."""

    name = "notebook"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self):
        self.settings, self.lines, self.finished = None, [], 0
        super().__init__()

    def start(self):
        pass

    @property
    def tracker(self):
        return self.lines

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **kwargs):
        self.lines.append((step, values))

    def finish(self):
        self.finished += 1


def fit(data, out, tracker, **how):
    task = zoo.create_task("effnet_eca_test", data)
    return zoo.fit(task, data.train, data.eval, zoo.TrainConfig(epochs=2, batch_size=16, out=str(out), log=[tracker], **how))


def test_every_epoch_is_a_point_and_a_second_training_in_the_process_has_its_own(data, tmp_path):
    one, two = Notebook(), Notebook()
    metrics = fit(data, tmp_path / "one", one)
    fit(data, tmp_path / "two", two)
    for tracker in (one, two):
        assert [step for step, _ in tracker.lines] == [3, 6] and tracker.finished == 1
        assert tracker.settings["lr"] == 2e-3 and all(isinstance(value, (int, float, str)) for value in tracker.settings.values())
    assert one.lines[-1][1] == {key: value for key, value in metrics.items() if key != "confusion"}
    assert (tmp_path / "one" / "metrics.jsonl").read_text().count("\n") == 2


def test_a_resumed_run_goes_on_with_its_curves(data, tmp_path, monkeypatch):
    first, rest = Notebook(), Notebook()
    write = Folder.log
    monkeypatch.setattr(Folder, "log", lambda self, line: write(self, line) or signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        fit(data, tmp_path, first)
    monkeypatch.undo()
    fit(data, tmp_path, rest, resume=True)
    assert [step for step, _ in first.lines] == [3] and [step for step, _ in rest.lines] == [6]
    assert first.settings and rest.settings is None and first.finished == rest.finished == 1


def test_the_options_of_the_known_trackers(data, tmp_path, monkeypatch):
    """What Accelerate is told of a run that goes on; the packages need not be here."""
    told = []
    engine = engines.Engine("cpu", log=[Notebook()], out=tmp_path)
    monkeypatch.setattr(engine.accelerator, "init_trackers", lambda project, **given: told.append(given))
    engine.start_log({"lr": 1.0, "pairs": [["image", "text"]]}, step=0)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "runs.json").write_text('{"wandb": "abc", "mlflow": "def"}')
    engine.start_log({"lr": 1.0}, step=6)
    start, rest = told
    assert start["config"] == {"lr": 1.0, "pairs": '[["image", "text"]]'} and rest["config"] is None
    assert "id" not in start["init_kwargs"]["wandb"] and start["init_kwargs"]["tensorboard"] == {}
    assert rest["init_kwargs"]["tensorboard"] == {"purge_step": 7} and rest["init_kwargs"]["mlflow"]["run_id"] == "def"
    assert rest["init_kwargs"]["wandb"] == {"id": "abc", "resume": "allow", "dir": str(tmp_path), "name": tmp_path.name}


def test_mistakes(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="log: expected a list of tensorboard, trackio, wandb, mlflow, got 'tensorbord'"):
        fit(data, tmp_path / "x", "tensorbord")
    with pytest.raises(ValueError, match="log: expected a list of .*, got 'wandb'"):
        zoo.TrainConfig(log="wandb")
    with pytest.raises(ValueError, match="log: tensorboard writes into the run directory"):
        zoo.TrainConfig(log=["tensorboard"])
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="log: wandb is not installed: pip install wandb"):
        fit(data, tmp_path / "x", "wandb")
    assert not (tmp_path / "x").exists()


def test_tensorboard(data, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(data, tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "logs" / "zoo"))
    events.Reload()
    assert [point.step for point in events.Scalars("loss")] == [3, 6]
