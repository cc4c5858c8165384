"""vision_learner: docs/clients/fastai.md."""

import pytest
import torch

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),  # fastai scripts functions as it is imported,
    pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option:Warning"),  # sets an option that pandas does without,
    pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning"),  # and asks numpy for a place that has moved
]
CLIENT = "fastai"


def test_the_script(page, gates, same):
    learner, again = page["learner"], page["again"]
    assert gates(learner.model) == {"cbam": 16}
    losses = [loss.item() for loss in learner.recorder.losses]  # a running mean, a step each
    assert len(losses) == 8 and losses[-1] < losses[0]
    x, y = page["data"].one_batch()
    with torch.no_grad():
        same(again.model.eval()(x), learner.model.eval()(x))
    learner.model.zero_grad()
    learner.loss_func(learner.model.train()(x), y).backward()
    assert gates(learner.model, that_learn=True) == {"cbam": 16}


@pytest.mark.parametrize("options", [{"n_in": 1}, {"n_in": 4}, {"drop_path_rate": 0.2}, {"attn_stages": {3: "eca"}}], ids=str)
def test_options_of_the_network(client, gates, options):
    from fastai.vision.learner import create_timm_model

    model, _ = create_timm_model("effnet_cbam_test", 3, pretrained=False, **options)
    assert model.eval()(torch.randn(2, options.get("n_in", 3), 32, 32)).shape == (2, 3)
    assert gates(model) == ({"cbam": 4, "eca": 1} if "attn_stages" in options else {"cbam": 5})


@torch.no_grad()
def test_changed_networks(page, gates, same, folder, network):
    learner = page["vision_learner"](page["data"], f"local-dir:{folder}", metrics=page["accuracy"])
    body = learner.model[0].eval()
    assert gates(body) == gates(network)
    x = torch.randn(2, 3, 32, 32)
    same(body(x), network.forward_features(x))
    frozen = {key for key, parameter in body.named_parameters() if not parameter.requires_grad}
    assert any(".se." in key for key in frozen), "with weights from a file fastai freezes the body, as the page says"
    learner.unfreeze()
    assert all(parameter.requires_grad for parameter in body.parameters())


def test_without_weights(page):
    with pytest.raises(RuntimeError, match="effnet_cbam_b6.* has no pretrained weights"):
        page["vision_learner"](page["data"], "effnet_cbam_b6")
