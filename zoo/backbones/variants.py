"""The EfficientNets, a row each: our short name and the timm models that are that network.

Papers: EfficientNet arXiv 1905.11946 (b0-b8, lite, EdgeTPU es/em/el), Noisy Student arXiv 1911.04252 (l2), CondConv arXiv 1904.04971 (cc),
EfficientNetV2 arXiv 2104.00298 (v2). `test` is timm's 0.4 M parameter toy, for tests.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One network.

    Args:
        name: the last part of `effnet_<attention>_<name>`.
        base: timm's model of the same network with PyTorch's symmetric padding (TensorFlow's where timm has no other).
        tf: timm's model with TensorFlow's 'same' padding, if it is another one; its weights are offered under tags that start with `tf_`.
        has_se: whether timm puts squeeze-and-excitation into it.
    """

    name: str
    base: str
    tf: str | None = None
    has_se: bool = True


VARIANTS: dict[str, Variant] = {
    row.name: row
    for row in (
        *(
            Variant(name, f"efficientnet_{name}", f"tf_efficientnet_{name}")
            for name in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")
        ),
        *(Variant(f"lite{i}", f"efficientnet_lite{i}", f"tf_efficientnet_lite{i}", has_se=False) for i in range(5)),
        *(Variant(name, f"efficientnet_{name}", f"tf_efficientnet_{name}", has_se=False) for name in ("es", "em", "el")),
        Variant("cc_b0_4e", "efficientnet_cc_b0_4e", "tf_efficientnet_cc_b0_4e"),
        *(Variant(f"v2_{size}", f"efficientnetv2_{size}", f"tf_efficientnetv2_{size}") for size in ("s", "m", "l", "xl")),
        *(Variant(f"v2_b{i}", f"tf_efficientnetv2_b{i}") for i in range(4)),
        Variant("test", "test_efficientnet"),
    )
}
