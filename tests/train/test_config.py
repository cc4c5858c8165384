import pytest

from zoo import TrainConfig


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
        ({"batch_size": -1}, "batch_size"),
        ({"accumulate": 1.5}, "accumulate"),
        ({"lr": 0.0}, "lr: expected a number above 0"),
        ({"lr": float("nan")}, "lr"),
        ({"warmup": 1.0}, "warmup"),
        ({"ema": 1.0}, "ema"),
        ({"seed": -1}, "seed"),
        ({"workers": -1}, "workers"),
        ({"precision": "int8"}, "precision: expected one of fp32, bf16, fp16, got 'int8'"),
        ({"device": "tpu"}, "device"),
        ({"resume": True}, "give out as well"),
        ({"resume": True, "overwrite": True, "out": "x"}, "contradict"),
    ],
)
def test_a_wrong_value_is_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        TrainConfig(**wrong)


def test_settings_leave_out_what_changes_no_result():
    one = TrainConfig(out="a", workers=2, checkpoint_every=3, device="cpu")
    two = TrainConfig(out="b", overwrite=True)
    assert one.settings() == two.settings()
    assert TrainConfig(lr=2e-3).settings() != one.settings()
