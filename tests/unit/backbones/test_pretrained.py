"""Published weights: the cache, the five seconds, and each value of model.pretrained without network."""

import functools
import hashlib
import http.server
import json
import socket
import threading
import time
import warnings

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from huggingface_hub import constants

from lit_modules.backbones import pretrained
from lit_modules.backbones.backbone import build_backbone
from lit_modules.backbones.pretrained import HubWeights, PretrainedRecord, UrlWeights, find_weights
from records.errors import UserError
from records.notices import RunWarning

REPOSITORY = "timm/test_vit.r160_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """Empty caches, no switch, no proxy, and a hub address that refuses every connection."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *PROXIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    return tmp_path


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def weights():
    """The tensors of test_vit with its classifier, as the hub holds them."""
    torch.manual_seed(11)
    return timm.create_model("test_vit").state_dict()


def put_into_hub_cache(folder, files, repository=REPOSITORY):
    """Lay the files out as the hub's client does, each a bytes object by name."""
    place = folder / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


@pytest.mark.parametrize("requested", [True, "auto"])
def test_cached_weights_are_loaded_without_asking_anybody(own_caches, monkeypatch, weights, requested):
    put_into_hub_cache(own_caches / "hub", {"model.safetensors": safetensors.torch.save(weights)})
    monkeypatch.setattr(pretrained, "why_unreachable", lambda url, seconds: pytest.fail("asked the network"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = build_backbone("timm", "test_vit.r160_in1k", requested)
    state = backbone.network.state_dict()
    assert state
    assert all(torch.equal(value, weights[name]) for name, value in state.items())
    source = f"{REPOSITORY} (model.safetensors) on {pretrained.hub_endpoint()}, cached as model.safetensors"
    assert backbone.pretrained == PretrainedRecord(requested, True, source)


def test_cached_weights_are_resized_to_the_image(own_caches, weights):
    put_into_hub_cache(own_caches / "hub", {"model.safetensors": safetensors.torch.save(weights)})
    backbone = build_backbone("timm", "test_vit.r160_in1k", True, image_size=64)
    assert backbone.image_size == 64
    assert backbone.network.pos_embed.shape[1] == 4 * 4 + weights["pos_embed"].shape[1] - 10 * 10
    assert torch.equal(backbone.network.patch_embed.proj.weight, weights["patch_embed.proj.weight"])
    assert backbone(torch.rand(2, 3, 64, 64)).shape == (2, 64)


def test_the_old_format_in_the_cache_is_read_too(own_caches, tmp_path, weights):
    torch.save(weights, tmp_path / "old")
    put_into_hub_cache(own_caches / "hub", {"pytorch_model.bin": (tmp_path / "old").read_bytes()})
    backbone = build_backbone("timm", "test_vit.r160_in1k", True)
    assert torch.equal(backbone.network.norm.weight, weights["norm.weight"])
    assert "cached as pytorch_model.bin" in backbone.pretrained.source


@pytest.mark.parametrize("requested", [True, "auto"])
def test_damaged_weights_in_the_cache_are_an_error_that_names_the_file(own_caches, requested):
    put_into_hub_cache(own_caches / "hub", {"model.safetensors": b"cut off in the middle"})
    with pytest.raises(UserError, match=r"snapshots.*model\.safetensors could not be loaded.*delete it"):
        build_backbone("timm", "test_vit.r160_in1k", requested)


def test_a_wrong_option_is_not_blamed_on_the_cached_weights(own_caches, weights):
    put_into_hub_cache(own_caches / "hub", {"model.safetensors": safetensors.torch.save(weights)})
    with pytest.raises(UserError, match=r"timm refuses drop_pth=0\.1"):
        build_backbone("timm", "test_vit.r160_in1k", True, drop_pth=0.1)


def test_beit_is_resized_from_cached_weights_to_four_tokens(own_caches):
    torch.manual_seed(3)
    state = timm.create_model("beitv2_base_patch16_224", depth=1).state_dict()
    name = "beitv2_base_patch16_224.in1k_ft_in22k_in1k"
    put_into_hub_cache(own_caches / "hub", {"model.safetensors": safetensors.torch.save(state)}, f"timm/{name}")
    backbone = build_backbone("timm", name, True, image_size=32, depth=1)
    table = backbone.network.blocks[0].attn.relative_position_bias_table
    assert table.shape[0] == 3 * 3 + 3  # every offset of a 2 x 2 grid, and three for the class token
    # The layer norm at the end makes plain sums constant.
    (backbone(torch.rand(2, 3, 32, 32)) * torch.rand(2, 768)).sum().backward()
    assert table.grad.abs().sum() > 0


def test_auto_without_network_warns_and_goes_on_within_five_seconds():
    start = time.monotonic()
    with pytest.warns(RunWarning) as caught:
        backbone = build_backbone("timm", "test_vit.r160_in1k", "auto")
    assert time.monotonic() - start < 5
    text = str(caught[0].message)
    for words in (
        "model.pretrained=auto",
        "test_vit.r160_in1k",
        REPOSITORY,
        "model.weights_file",
        "HF_ENDPOINT",
    ):
        assert words in text
    assert backbone.pretrained.requested == "auto"
    assert not backbone.pretrained.used
    assert "random initialisation: 127.0.0.1" in backbone.pretrained.source


def test_true_without_network_names_the_file_the_cache_and_the_ways_round(own_caches):
    with pytest.raises(UserError) as caught:
        build_backbone("timm", "test_vit.r160_in1k", True)
    for words in (
        "model.pretrained=true",
        f"{REPOSITORY} (model.safetensors)",
        str(own_caches / "hub"),
        "model.pretrained=auto",
        "model.pretrained=false",
        "model.weights_file",
        "HF_ENDPOINT",
    ):
        assert words in str(caught.value)


def test_false_asks_neither_cache_nor_network(own_caches, monkeypatch, weights):
    put_into_hub_cache(own_caches / "hub", {"model.safetensors": safetensors.torch.save(weights)})
    monkeypatch.setattr(pretrained, "why_unreachable", lambda url, seconds: pytest.fail("asked the network"))
    backbone = build_backbone("timm", "test_vit.r160_in1k", False)
    assert backbone.pretrained == PretrainedRecord(False, False, "random initialisation")
    assert not torch.equal(backbone.network.patch_embed.proj.weight, weights["patch_embed.proj.weight"])


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_hubs_offline_switch_is_obeyed(monkeypatch, switch):
    monkeypatch.setenv(switch, "1")
    monkeypatch.setattr(pretrained, "why_unreachable", lambda url, seconds: pytest.fail("asked the network"))
    with pytest.warns(RunWarning, match=f"{switch} is set"):
        build_backbone("timm", "test_vit.r160_in1k", "auto")


def test_a_resolver_that_hangs_does_not_hang_the_decision(monkeypatch):
    released = threading.Event()

    def hang(*args, **kwargs):
        released.wait(30)
        raise socket.gaierror("released")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    reason = pretrained.why_unreachable("https://hub.example/file", 0.3)
    assert time.monotonic() - start < 1
    assert reason == "hub.example did not answer within 0.3 s"
    released.set()


@pytest.mark.parametrize(
    "deadline", [0.5, pytest.param(pretrained.AUTO_DEADLINE_S, marks=pytest.mark.slow)], ids=["short", "real"]
)
def test_a_server_that_accepts_and_says_nothing_is_given_up_within_five_seconds(monkeypatch, deadline):
    monkeypatch.setattr(pretrained, "AUTO_DEADLINE_S", deadline)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.warns(RunWarning, match="NO PRETRAINED WEIGHTS"):
            path, record = find_weights("auto", HubWeights(REPOSITORY, ("model.safetensors",)), "test_vit")
        assert time.monotonic() - start < min(5, deadline + 1)
    assert path is None
    assert not record.used


class Hub(http.server.BaseHTTPRequestHandler):
    """A mirror of the hub that holds one file, or nothing."""

    def __init__(self, content: bytes | None, *args):
        self.content = content
        super().__init__(*args)

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        if self.content is None or not self.path.endswith("model.safetensors"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if body:
            self.wfile.write(self.content)

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(monkeypatch):
    """Start a mirror of the hub and let HF_ENDPOINT name it."""
    servers = []

    def start(content):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, content))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_weights_are_fetched_from_the_mirror_and_cached(mirror, monkeypatch, weights):
    mirror(safetensors.torch.save(weights))
    backbone = build_backbone("timm", "test_vit.r160_in1k", "auto")
    assert backbone.pretrained.used
    assert "downloaded" in backbone.pretrained.source
    assert torch.equal(backbone.network.norm.weight, weights["norm.weight"])
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    again = build_backbone("timm", "test_vit.r160_in1k", True)
    assert "cached as model.safetensors" in again.pretrained.source


def test_a_download_that_fails_after_the_server_answered_is_caught_by_auto(mirror):
    mirror(None)
    with pytest.warns(RunWarning, match="the download failed"):
        backbone = build_backbone("timm", "test_vit.r160_in1k", "auto")
    assert not backbone.pretrained.used
    with pytest.raises(UserError, match=r"model\.pretrained=true.*the download failed"):
        build_backbone("timm", "test_vit.r160_in1k", True)


def test_a_repository_in_the_cache_is_built_from_its_own_description(own_caches, weights):
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": {
        "input_size": [3, 160, 160], "fixed_input_size": True, "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6], "num_classes": 1000, "classifier": "head", "first_conv": "patch_embed.proj",
    }}  # fmt: skip
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors.torch.save(weights)}
    snapshot = put_into_hub_cache(own_caches / "hub", files, "someone/their_vit")
    for architecture in ("hf-hub:someone/their_vit", f"local-dir:{snapshot}"):
        backbone = build_backbone("timm", architecture, True, image_size=64)
        assert backbone.mean == (0.1, 0.2, 0.3)
        assert torch.equal(backbone.network.norm.weight, weights["norm.weight"])
        assert backbone(torch.rand(1, 3, 64, 64)).shape == (1, 64)


def test_a_repository_nobody_has_cannot_even_start_from_random_weights():
    with pytest.raises(UserError, match=r"model\.architecture=hf-hub:someone/else.*config\.json.*local-dir:"):
        build_backbone("timm", "hf-hub:someone/else", "auto")


def test_a_folder_without_weights_or_description_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json in"):
        build_backbone("timm", f"local-dir:{tmp_path}", False)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    with pytest.raises(UserError, match=r"model\.pretrained=true.*model\.safetensors"):
        build_backbone("timm", f"local-dir:{tmp_path}", True)


def test_torchvision_weights_come_from_torch_hubs_cache(own_caches):
    name = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    torch.manual_seed(5)
    whole = torchvision.models.resnet50(weights=None)
    folder = own_caches / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(whole.state_dict(), folder / name)
    backbone = build_backbone("torchvision", "resnet50", True)
    assert torch.equal(backbone.network.layer4[2].conv3.weight, whole.layer4[2].conv3.weight)
    assert backbone.pretrained.used
    assert name in backbone.pretrained.source


def test_torchvision_without_network_names_its_address_and_cache(own_caches, monkeypatch):
    monkeypatch.setattr(pretrained, "why_unreachable", lambda url, seconds: f"no way to {url}")
    with pytest.raises(UserError, match=r"no way to https://download\.pytorch\.org/models/alexnet") as caught:
        build_backbone("torchvision", "alexnet", True)
    assert str(own_caches / "torch" / "hub" / "checkpoints") in str(caught.value)
    with pytest.warns(RunWarning, match="resnet50 starts from random ones"):
        assert not build_backbone("torchvision", "resnet50", "auto").pretrained.used


def test_a_plain_address_is_fetched_once_and_its_digest_checked(own_caches, mirror):
    mirror(b"weights")
    base = pretrained.hub_endpoint()
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    good = UrlWeights(f"{base}/{digest}-model.safetensors")
    assert good.why_unreachable(4) is None
    assert good.cached() is None
    assert good.download().read_bytes() == b"weights"
    assert good.cached() == own_caches / "torch" / "hub" / "checkpoints" / f"{digest}-model.safetensors"


def test_own_networks_have_no_published_weights():
    with pytest.raises(UserError, match=r"model\.pretrained=true.*tiny.*no published weights"):
        build_backbone("own", "tiny", True)
    with pytest.warns(RunWarning, match="tiny starts from random ones"):
        assert not build_backbone("own", "tiny", "auto").pretrained.used


@pytest.mark.parametrize("source", ["own", "timm", "torchvision"])
@pytest.mark.parametrize("requested", ["yes", None, 1, "AUTO"])
def test_other_values_are_refused_with_the_three_choices(source, requested):
    architecture = {"own": "tiny", "timm": "test_vit", "torchvision": "alexnet"}[source]
    with pytest.raises(UserError, match=r"model\.pretrained=.*choose true, false or auto"):
        build_backbone(source, architecture, requested)
