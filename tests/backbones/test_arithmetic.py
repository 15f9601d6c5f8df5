"""Less than float32: weights cast once and batch norms folded change no more than autocast does."""

import torch
from torch import fx, nn

from embedpipe.backbones.arithmetic import lowered


def relative(found, expected):
    return float(torch.linalg.norm(found.float() - expected) / torch.linalg.norm(expected))


def test_folded_batch_norms_are_gone_and_the_original_is_untouched(make, batch):
    backbone = make(taps={"layer2": ["gap"], "layer4": ["gap"]})
    before = {key: value.clone() for key, value in backbone.module.state_dict().items()}
    truncated = backbone._graph.truncated([("t", "layer4", _gap())])
    ready = lowered(truncated, torch.bfloat16)
    assert not [part for part in ready.modules() if isinstance(part, nn.BatchNorm2d) and _called(ready, part)]
    assert all(p.dtype == torch.bfloat16 for p in ready.get_submodule("layer1.0.conv1").parameters())
    assert all(torch.equal(value, before[key]) for key, value in backbone.module.state_dict().items())


def test_a_folded_bfloat16_pass_is_as_near_to_float64_as_plain_autocast(make, batch):
    backbone = make(taps={"layer4": ["gap"]})
    for part in backbone.module.modules():
        if isinstance(part, nn.BatchNorm2d):  # statistics that folding could get wrong
            part.running_mean.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(0))
            part.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
    x, specs = batch(backbone, 4), backbone.tap_specs()
    exact = backbone._graph.truncated([("layer4.gap", "layer4", _gap())]).double()(x.double())["layer4.gap"]
    backbone.module.float()
    truncated = backbone._graph.truncated([("layer4.gap", "layer4", _gap())])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain = truncated(x)["layer4.gap"]
    folded = backbone.forward(specs, precision="bfloat16")(x)["layer4.gap"]
    assert relative(folded, exact) < 1.5 * relative(plain, exact) < 0.05


def test_a_tap_between_a_convolution_and_its_norm_keeps_both(make, batch):
    backbone = make(taps={"layer1.0.conv1": ["none"], "layer1.0.bn1": ["none"]})
    x, specs = batch(backbone, 2), backbone.tap_specs()
    full, half = (backbone.forward(specs, precision=p)(x) for p in ("float32", "bfloat16"))
    for name in full:
        assert relative(half[name], full[name]) < 0.02


def test_a_convolution_that_runs_twice_is_not_folded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.b(self.conv(self.a(self.conv(x))))

    model = Twice().eval().requires_grad_(False)
    model.a.running_mean.fill_(0.5)
    x = torch.rand(2, 3, 4, 4)
    ready = lowered(fx.symbolic_trace(model), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = ready(x)
    assert relative(found, model(x)) < 0.02


def test_a_compiled_pass_gives_the_same_features(make, batch, monkeypatch):
    real = torch.compile
    used = []
    monkeypatch.setattr(torch, "compile", lambda model: used.append(1) or real(model, backend="eager"))
    backbone = make("glyphnet", taps={"blocks": ["gap"]})
    x, specs = batch(backbone, 4), backbone.tap_specs()
    plain = backbone.forward(specs)(x)
    compiled = backbone.forward(specs, compiled=True)(x)
    assert used
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], rtol=1e-3, atol=1e-4)


def _gap():
    from embedpipe.reduce import get_reduction

    return get_reduction("gap")


def _called(model, part):
    names = {name for name, module in model.named_modules() if module is part}
    return any(node.op == "call_module" and str(node.target) in names for node in model.graph.nodes)
