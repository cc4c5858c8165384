"""A Lightning module: docs/clients/lightning.md."""

import pytest
import timm
import torch

import zoo

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning"),  # Lightning 2.6 asks torch in the old way
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),  # the pictures are there already
]
CLIENT = "lightning"


def test_the_script(page, gates, same):
    classifier, again = page["classifier"], page["again"]
    losses = classifier.losses
    assert len(losses) == 8 and sum(losses[-2:]) < sum(losses[:2])
    assert gates(classifier) == gates(classifier, that_learn=True) == {"cbam": 16}
    assert {key: again.hparams[key] for key in ("name", "num_classes", "drop_path_rate")} == {
        "name": "effnet_cbam_b0",
        "num_classes": 2,
        "drop_path_rate": 0.1,
    }
    with torch.no_grad():
        same(again(page["pictures"]), classifier.eval()(page["pictures"]))


def test_what_must_not_decay(page):
    """What the page says of timm's optimizer, of a gate whose parameters are [1, C, 1, 1]."""
    classifier = page["Classifier"]("effnet_gct_test", num_classes=2)
    still, decays = classifier.configure_optimizers().param_groups
    assert still["weight_decay"] == 0 < decays["weight_decay"]
    for path, _, gate in zoo.attention_slots(classifier.model):
        for name in gate.no_weight_decay():
            assert any(parameter is gate.get_parameter(name) for parameter in still["params"]), path


def test_changed_networks(page, gates, same, folder, network, tmp_path):
    torch.manual_seed(0)
    classifier = page["Classifier"](f"local-dir:{folder}", num_classes=10, pretrained=True).eval()
    assert gates(classifier) == gates(network)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        same(classifier(x), network(x))
    loader = torch.utils.data.DataLoader([(picture, torch.tensor(1)) for picture in x], batch_size=2)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = page["lightning"].Trainer(max_epochs=1, accelerator="cpu", **quiet)
    trainer.fit(classifier.train(), loader)
    assert gates(classifier, that_learn=True) == gates(network)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = page["Classifier"].load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True).eval()
    with torch.no_grad():
        same(again(x), classifier.eval()(x))
        assert not torch.allclose(again(x), network(x), rtol=1e-3), "it has learnt"


def test_a_graft_hands_over(page, gates):
    """As the page says: the share at every batch, the end at the end."""

    class Grafted(page["Classifier"]):
        def __init__(self):
            super().__init__("effnet_eca_test", num_classes=2)
            zoo.swap_attention(self.model, "coord", keep="graft")

        def on_train_batch_start(self, batch, index):
            zoo.set_share(self.model, self.global_step / 3)

        def on_train_end(self):
            zoo.finish_swap(self.model)

    classifier = Grafted()
    assert set(gates(classifier)) == {"eca>coord"}
    loader = torch.utils.data.DataLoader([(torch.randn(3, 32, 32), torch.tensor(index % 2)) for index in range(8)], batch_size=2)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    page["lightning"].Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(classifier, loader)
    assert gates(classifier) == gates(timm.create_model("effnet_coord_test"))
