"""Tensors of TorchScript archives, read without their program; what would run code is refused."""

import pickle
import warnings
import zipfile

import pytest
import torch
from torch import nn

from lit_modules.backbones.backbone import build_backbone
from lit_modules.backbones.torchscript_file import is_torchscript
from lit_modules.backbones.weights_file import read_state_dict
from records.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")


class Part(nn.Module):
    """Half precision, a strided weight, a number as a buffer, attributes that are no tensors."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3).half().T)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("empty", torch.empty(0, 2))
        self.sizes, self.names, self.shares = [1, 2], ["a"], {"k": 1.0}

    def forward(self, x):
        return x @ self.weight.float().T


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Part()
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 2)])
        self.norm = nn.BatchNorm1d(2)
        self.tied = self.blocks[0].weight
        self.register_buffer("nothing", None)
        self.resolution = 224

    def forward(self, x):
        x = self.part(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def scripted(module):
    return torch.jit.script(module)


def traced(module):
    return torch.jit.trace(module.eval(), torch.randn(2, 4))


@pytest.mark.parametrize("made", [scripted, traced])
def test_the_tensors_are_those_of_the_module(made, tmp_path, monkeypatch):
    torch.manual_seed(0)
    module = Whole()
    path = tmp_path / "whole.pt"
    made(module).save(str(path))
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the program was run"))
    assert is_torchscript(path)
    found, wanted = read_state_dict(path), module.state_dict()
    if made is traced:
        # tracing leaves out a buffer that forward() has no use for
        wanted = {name: tensor for name, tensor in wanted.items() if name in found}
        assert len(wanted) >= 9
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_backbone_loads_an_archive(tmp_path):
    torch.manual_seed(1)
    donor = build_backbone("own", "tiny", False)
    path = tmp_path / "tiny.pt"
    torch.jit.trace(donor.network.eval(), torch.rand(1, 3, 32, 32)).save(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = build_backbone("own", "tiny", False, weights_file=str(path))
    theirs = loaded.network.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in donor.network.state_dict().items())


def changed(path, **entries):
    """Write an archive anew with other content in some entries, by the end of their names."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, own in content.items():
            archive.writestr(name, entries.get(name.rpartition("/")[2].replace(".", "_"), own))


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "linear.pt"
    scripted(nn.Linear(4, 4)).save(str(path))
    return path


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused(archive, tmp_path, protocol):
    mark = tmp_path / "mark"
    changed(archive, data_pkl=pickle.dumps({"weight": Evil(open, str(mark), "w")}, protocol))
    with pytest.raises(UserError, match=r"it names .*open, which is neither"):
        read_state_dict(archive)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "torch load", "torch.hub load", "torch._utils _rebuild_parameter", "__torch__x Linear"]
)
def test_names_beside_tensors_are_refused(archive, name):
    module, _, attribute = name.partition(" ")
    changed(archive, data_pkl=f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(UserError, match=f"it names {module}.{attribute}, which is neither"):
        read_state_dict(archive)


def tensor_pickle(shape, stride, offset=0, key="0", size=16, storage="FloatStorage"):
    """Return a pickle whose root has one tensor over entry `key`, opcode by opcode."""
    whole = "c__torch__\nWhole\n)\x81}S'weight'\n"
    numbers = f"(S'storage'\nctorch\n{storage}\nS'{key}'\nS'cpu'\nI{size}\ntQ"
    ways = [f"({''.join(f'I{number}' + chr(10) for number in one)}t" for one in (shape, stride)]
    tensor = f"ctorch._utils\n_rebuild_tensor_v2\n({numbers}I{offset}\n{ways[0]}{ways[1]}I00\nNtR"
    return f"\x80\x02{whole}{tensor}sb.".encode("latin1")


def test_a_tensor_is_a_shape_over_its_entry(archive):
    changed(archive, data_pkl=tensor_pickle((2, 3), (4, 1), offset=5))
    with zipfile.ZipFile(archive) as file:
        entry = next(name for name in file.namelist() if name.endswith("data/0"))
        numbers = torch.frombuffer(bytearray(file.read(entry)), dtype=torch.float32)
    rows = torch.stack([numbers[5:8], numbers[9:12]])
    assert torch.equal(read_state_dict(archive)["weight"], rows)


@pytest.mark.parametrize(
    "wrong",
    [{"offset": 8}, {"offset": -1}, {"size": 17}, {"key": "../version"}, {"key": "9"}, {"storage": "QInt8Storage"}],
)
def test_a_tensor_that_reaches_beyond_its_entry_is_refused(archive, wrong):
    changed(archive, data_pkl=tensor_pickle(**{"shape": (3, 4), "stride": (4, 1), **wrong}))
    with pytest.raises(UserError, match=r"cannot be read without running its program.*torch\.jit\.load"):
        read_state_dict(archive)


@pytest.mark.parametrize(
    "entries", [{"data_pkl": b""}, {"data_pkl": b"garbage"}, {"data_pkl": b"\x80\x02}(."}, {"byteorder": b"big"}]
)
def test_damaged_archives_are_named(archive, entries):
    changed(archive, **entries)
    with pytest.raises(UserError, match=r"linear\.pt: a TorchScript archive"):
        read_state_dict(archive)


def test_an_archive_without_tensors_says_so(archive):
    changed(archive, data_pkl=b"c__torch__\nWhole\n)\x81}b.")
    with pytest.raises(UserError, match="without a tensor"):
        read_state_dict(archive)
